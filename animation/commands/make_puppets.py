"""Make clips of puppets: characters and motions from seeds, with skeletons, face masks and all key points.

    python make_puppets.py clips output/puppets --count 3 --mp4
    python make_puppets.py training output/puppet_data --rec 200 --vec 50
    python make_puppets.py cases output/puppet_cases --count 20 --kind cross

`clips` writes images/, poses/, faces/ and truth.npz; `training` the layout that train.py reads; `cases` held-out cases
that inference_basic.py animates and evaluate.py measures. What an interrupted run wrote is kept, and the same command
goes on from there. `make_puppets.py clips --help` lists the flags of one of them.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import call
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation import cli
from animation.errors import InputError
from animation.files import write_whole
from animation.flags import Parser, Settings, add_flags, flag
from animation.media.images import read_size
from animation.media.sound import Sound
from animation.media.writing import check_writable, write_mp4
from puppets.hiding import WAYS
from puppets.motions import KINDS
from puppets.music import make_tune
from puppets.seeds import SPLITS
from puppets.writing import BUCKETS, CASE_KINDS, DRIVERS, FPS, Format, write_case, write_clip, write_clip_list

SIZE = {"metavar": "WIDTHxHEIGHT"}  # even numbers of 16 to 4096


@dataclass(kw_only=True)
class PuppetSettings(Settings):
    """What all that can be made has in common; `output_dir` is made where missing."""

    output_dir: str
    frames: int = flag(32, "frames of each clip", least=1)
    start: int = flag(0, "index of the first clip", least=0)
    canvas: int | None = flag(
        None,
        "short side of what skeletons are drawn on, smaller for thicker strokes; left out, 3 times the picture's, at "
        "most 2160",
        least=16,
        metavar="PIXELS",
    )
    roams: bool = flag(False, "they move over the stage too: larger motions")
    workers: int = flag(1, "processes", least=1)

    def form(self, name: str) -> Format:
        """How clips of the size in the setting of a name are written. Raises InputError."""
        width, height = read_size(getattr(self, name), name)
        if any(not 16 <= side <= 4096 or side % 2 for side in (width, height)):
            raise InputError(f"--{name} {width}x{height}: give even numbers of 16 to 4096 pixels, such as 128x128")
        return Format(width=width, height=height, num_frames=self.frames, canvas=self.canvas)

    def jobs(self) -> list[Callable[[], Path]]:
        """What is to be written, a function a folder. Raises InputError."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what comes when all folders are there."""


@dataclass(kw_only=True)
class Clips(PuppetSettings):
    """Plain folders."""

    count: int = flag(1, "how many", least=1)
    size: str = flag("256x256", "pixels", **SIZE)
    split: str = flag("training", "whose characters and motions", choices=SPLITS)
    motion: str | None = flag(None, "left out, each clip's own", choices=KINDS)
    people: int = flag(1, "in a frame, 1 or 2", least=1, most=2)
    mp4: bool = flag(False, "also write video.mp4, with a tune")

    def _folders(self) -> dict[int, Path]:
        return {i: Path(self.output_dir) / f"clip-{i + 1}" for i in range(self.start, self.start + self.count)}

    def jobs(self) -> list[Callable[[], Path]]:
        """As `PuppetSettings.jobs`."""
        facts = self.form("size"), self.motion, self.people, self.roams
        return [partial(write_clip, folder, self.split, i, *facts) for i, folder in self._folders().items()]

    def finish(self) -> None:
        """Write each clip's images as video.mp4 beside them, with its tune, where that is wanted."""
        for index, folder in self._folders().items() if self.mp4 else ():
            frames = (np.asarray(Image.open(folder / "images" / f"frame_{i}.png")) for i in range(self.frames))
            sound = Sound(make_tune(self.split, index, self.frames / FPS))
            write_whole(folder / "video.mp4", partial(write_mp4, frames_rgb=frames, fps=FPS, sound=sound))


@dataclass(kw_only=True)
class TrainingData(PuppetSettings):
    """The layout that training reads, with its lists."""

    rec: int = flag(0, "clips in rec/", least=0)
    rec_size: str = flag("128x128", "their size", **SIZE)
    vec: int = flag(0, "clips in vec/", least=0)
    vec_size: str = flag("128x192", "their size", **SIZE)
    hidden: int = flag(0, "every so many clips, also photos/ in which the face is hidden; 0: never", least=0)
    mask_hands: bool = flag(False, "faces/ show the hands too, so that train.py --face_loss_weight weighs both")

    def jobs(self) -> list[Callable[[], Path]]:
        """As `PuppetSettings.jobs`."""
        if not self.rec + self.vec:
            raise InputError("nothing to make; give the number of clips with --rec or --vec")
        jobs: list[Callable[[], Path]] = []
        write = partial(write_clip, roams=self.roams, mask_hands=self.mask_hands)
        for bucket in BUCKETS:
            form, first = self.form(f"{bucket}_size"), self.start + len(jobs)
            for i in range(first, first + getattr(self, bucket)):
                folder = Path(self.output_dir) / bucket / f"{i + 1:05d}"
                turn, rest = divmod(i, self.hidden) if self.hidden else (0, 1)
                hidden = None if rest else WAYS[turn % len(WAYS)]
                jobs.append(partial(write, folder, "training", i, form, hidden=hidden))
        return jobs

    def finish(self) -> None:
        """Write the lists of the clips."""
        for bucket in BUCKETS:
            if getattr(self, bucket):
                write_clip_list(Path(self.output_dir), bucket)


@dataclass(kw_only=True)
class Cases(PuppetSettings):
    """Held-out cases."""

    count: int = flag(1, "how many", least=1)
    size: str = flag("256x256", "pixels", **SIZE)
    kind: str = flag(
        "same",
        "same: the photo is another moment of the driving video; cross: of another character; hidden: as same, but the "
        "photo hides the face, which face.png shows",
        choices=CASE_KINDS,
    )

    def jobs(self) -> list[Callable[[], Path]]:
        """As `PuppetSettings.jobs`."""
        form, stop = self.form("size"), self.start + self.count
        if stop > DRIVERS:
            raise InputError(f"cases up to {stop}: those from {DRIVERS} on are drivers; make fewer")
        folders = {i: Path(self.output_dir) / f"case-{i + 1}" for i in range(self.start, stop)}
        return [partial(write_case, folder, i, form, self.kind, self.roams) for i, folder in folders.items()]


COMMANDS: dict[str, type[PuppetSettings]] = {"clips": Clips, "training": TrainingData, "cases": Cases}


def read_settings() -> PuppetSettings:
    """The settings of the command line. Raises InputError."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    for name, cls in COMMANDS.items():
        command = commands.add_parser(name, help=cls.__doc__, description=cls.__doc__)
        command.add_argument("output_dir", metavar="DIR", help="where the folders go; made where missing")
        add_flags(command, cls)
    arguments, unknown = parser.parse_known_args()
    values = vars(arguments)
    name = values.pop("command")
    if unknown:
        commands.choices[name].error(f"unrecognized arguments: {' '.join(unknown)}")
    return COMMANDS[name](**values)


def main() -> None:
    """Parse, check, make."""
    cli.start_logging()
    settings = read_settings()
    settings.check()
    jobs = settings.jobs()
    check_writable(Path(settings.output_dir))
    with ProcessPoolExecutor(settings.workers) as pool:  # which starts no process before it gets a job
        made = pool.map(call, jobs) if settings.workers > 1 else map(call, jobs)
        for _ in tqdm(made, desc="puppets", total=len(jobs), unit="clip"):
            pass
    settings.finish()
