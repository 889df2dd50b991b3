"""The settings of the page, and which of a clip's settings its visitors may choose."""

import dataclasses
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from animation.clip.settings import ClipSettings
from animation.errors import InputError
from animation.flags import Settings, flag
from animation.settings import LARGEST_SEED, Weights

MAIN = ("preset", "size", "seed", "face_optimization", "anchor", "no_audio", "alignment", "person", "start", "end")
SERVERS = {  # a clip's settings that are the server's: paths, what the page itself decides, and the machine
    *(field.name for field in dataclasses.fields(Weights)),
    *("photo", "video", "output", "driver_kind"),
    *("face_photo", "face_embedding", "face_embedding_extractor_weight_path"),
    *("side_by_side", "no_png", "again", "device", "max_vram"),
}
CHOSEN = tuple(field.name for field in dataclasses.fields(ClipSettings) if field.name not in SERVERS)
ADVANCED = tuple(name for name in CHOSEN if name not in MAIN)
THIS_MACHINE = "localhost"


def as_of_a_clip(name: str) -> Any:
    """The field of a clip's setting for another settings class, declared once."""
    declared = ClipSettings.__dataclass_fields__[name]
    return dataclasses.field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True)
class Limits:
    """What an upload may have at most: bytes, pixels of a picture, seconds and frames of a driver."""

    bytes: int
    pixels: int
    seconds: float
    frames: int


@dataclass(kw_only=True)
class AppSettings(Settings):
    """The flags of `app.py`."""

    TITLE: ClassVar = "the page"

    host: str = flag("127.0.0.1", "address to listen at; any but this machine's own wants --auth or --no_auth")
    port: int = flag(7860, "port to listen at; 0 takes a free one", least=0, most=65535)
    auth: str | None = flag(None, "name and password that visitors must give", metavar="USER:PASSWORD")
    no_auth: bool = flag(False, "let everyone in who can reach --host")
    folder: str = flag("output/page", "where uploads and results are kept; made where missing", metavar="DIR")
    keep_hours: float = flag(24.0, "uploads and results are removed after so many hours", above=0, most=24 * 3650)
    preset: str = as_of_a_clip("preset")
    max_vram: float | None = as_of_a_clip("max_vram")
    largest_upload: int = flag(200, "of one file", least=1, most=1 << 20, metavar="MB")
    largest_picture: int = flag(40, "of a photo and of a driver's frame", least=1, most=1000, metavar="MEGAPIXELS")
    longest_driver: float = flag(60.0, "of a video, and of a clip", above=0, most=24 * 3600, metavar="SECONDS")
    most_frames: int = flag(2000, "frames of a driver, and of a clip", least=1, most=1_000_000)
    most_waiting: int = flag(20, "clips that may wait for their turn", least=1, most=10_000)
    open: bool = flag(False, "open the page in this machine's browser")

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense, or a page that is open to others by oversight."""
        super().check()
        if self.auth is not None and self.no_auth:
            raise InputError("--auth and --no_auth contradict each other; give one of them")
        if self.auth is not None and not all(self.credentials or ()):
            raise InputError("--auth wants a name and a password with a colon between them, such as anna:secret")
        if not is_this_machine(self.host) and self.auth is None and not self.no_auth:
            raise InputError(
                f"--host {self.host} lets other machines in; give --auth USER:PASSWORD, or say --no_auth to let "
                "everyone in"
            )

    @property
    def credentials(self) -> tuple[str, str] | None:
        """Name and password, as Gradio wants them; None: nobody is asked."""
        if self.auth is None:
            return None
        name, _, password = self.auth.partition(":")
        return name, password

    @property
    def limits(self) -> Limits:
        """What an upload may have at most."""
        sizes = self.largest_upload << 20, self.largest_picture * 1_000_000
        return Limits(*sizes, self.longest_driver, self.most_frames)

    @property
    def jobs_folder(self) -> Path:
        """Where the clips are, each in a folder of its own."""
        return Path(self.folder).absolute() / "clips"

    @property
    def uploads_folder(self) -> Path:
        """Where uploads wait until they become a clip's."""
        return Path(self.folder).absolute() / "uploads"


def is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == THIS_MACHINE


def chosen_settings(values: dict) -> ClipSettings:
    """A clip's settings of what a visitor chose, by name; those of None are left open.

    Raises:
        InputError: an unknown name, a setting that is the server's, or a wrong type.
    """
    for name in values:
        if name in SERVERS:
            raise InputError(f"{name} is the server's to set; leave it out")
    return ClipSettings(**ClipSettings().checked_values({k: v for k, v in values.items() if v is not None}))


def most_seed() -> int:
    """The largest seed that a browser's numbers hold exactly."""
    return min(LARGEST_SEED, 2**53 - 1)
