"""The released checkpoints, from the Hugging Face hub into their layout. Only ever on the user's command."""

import logging
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from animation.errors import InputError, RunError

logger = logging.getLogger(__name__)

REPOSITORY = "FrancisRing/StableAnimator"
CASES_ARCHIVE = "inference.zip"
PARTS = {  # what is fetched for each part: the hub's folder, and where it goes
    "animation": ("Animation", "checkpoints"),
    "svd": ("SVD", "checkpoints"),
    "dwpose": ("DWPose", "checkpoints"),
    "antelopev2": ("antelopev2", "models"),
    "cases": (CASES_ARCHIVE, "."),
}
LICENCES = {
    "svd": "Stable Video Diffusion is under Stability AI's own licence, which binds commercial use: "
    "https://stability.ai/license",
    "antelopev2": "insightface's models are for non-commercial research only: "
    "https://github.com/deepinsight/insightface#license",
}
SPARE_BYTES = 1 << 30  # that should stay free on the disk
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".ckpt")


@dataclass
class RemoteFile:
    """A file to fetch.

    Attributes:
        name: its path in the repository.
        size: bytes; None where the hub does not say.
        folder: the local folder that the repository's path is put into.
    """

    name: str
    size: int | None
    folder: Path

    @property
    def path(self) -> Path:
        """Where it goes."""
        return self.folder / self.name

    @property
    def missing_bytes(self) -> int:
        """What is still to fetch."""
        return 0 if self.path.is_file() and self.path.stat().st_size == self.size else self.size or 0


def list_remote_files(revision: str | None = None, repository: str = REPOSITORY) -> list[tuple[str, int | None]]:
    """Names and sizes of a repository's files.

    Raises:
        InputError: no such repository or revision, or it wants an account.
        RunError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise InputError(
            f"{repository}: asks for its licence to be accepted; do that on its page, then log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{repository}: not on {constants.ENDPOINT} ({reason}); check the name and --revision"
        ) from None
    except Exception as error:  # the hub's transport raises types of its own
        raise _unreachable(error) from None
    return [(sibling.rfilename, sibling.size) for sibling in info.siblings or []]


def plan(files: Sequence[tuple[str, int | None]], destination: str | Path, parts: Sequence[str]) -> list[RemoteFile]:
    """Which of a repository's files to fetch, and where they go.

    Left out is what nothing here reads: weights of Stable Video Diffusion's own UNet, which `unet.pth` replaces whole,
    its single-file checkpoints, and its half-precision variants' twins.

    Args:
        files: names and sizes.
        destination: the project's folder.
        parts: of `PARTS`.

    Raises:
        InputError: a part is unknown, or the repository has none of it.
    """
    chosen = []
    for part in parts:
        if part not in PARTS:
            raise InputError(f"--parts {part} is unknown; give some of {', '.join(PARTS)}")
        source, folder = PARTS[part]
        found = [
            RemoteFile(name, size, Path(destination) / folder)
            for name, size in files
            if _safe(name) and (name == source or name.startswith(f"{source}/")) and not _unused(name)
        ]
        if not found:
            raise InputError(
                f"the repository has no {source}; it has {', '.join(sorted({n.split('/')[0] for n, _ in files}))}"
            )
        chosen += found
    return chosen


def _safe(name: str) -> bool:
    """Whether a name stays in its folder: what the hub says is not trusted."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _unused(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0] != "SVD" or path.suffix not in WEIGHTS_SUFFIXES:
        return False
    return path.parent.name == "unet" or path.parent.name not in ("vae", "image_encoder") or ".fp16." in path.name


def describe(files: Sequence[RemoteFile]) -> str:
    """The plan as lines: each file with its size and place, and the totals."""
    lines = [f"{_size(file.size):>9}  {file.name} → {file.path.parent}" for file in files]
    total, missing = sum(file.size or 0 for file in files), sum(file.missing_bytes for file in files)
    return "\n".join([*lines, f"{_size(total):>9}  in all, {_size(missing)} of it to fetch"])


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def fetch(
    files: Sequence[RemoteFile], destination: str | Path, revision: str | None = None, repository: str = REPOSITORY
) -> None:
    """Fetch what is missing; an interrupted fetch goes on where it stopped.

    Raises:
        InputError: too little room on the disk.
        RunError: the hub cannot be reached, or sent something else.
    """
    from huggingface_hub import hf_hub_download

    missing = sum(file.missing_bytes for file in files)
    free = shutil.disk_usage(_existing(Path(destination))).free
    if missing and free < missing + SPARE_BYTES:
        raise InputError(
            f"{destination}: {_size(free)} free and {_size(missing)} to fetch, with {_size(SPARE_BYTES)} "
            "to spare; make room, choose --parts, or give another --destination"
        )
    for number, file in enumerate(files, 1):
        logger.info("%d of %d: %s", number, len(files), file.name)
        try:
            hf_hub_download(repository, file.name, revision=revision, local_dir=file.folder)
        except Exception as error:  # the hub's transport raises types of its own
            raise _unreachable(error) from None
        if file.size is not None and file.path.stat().st_size != file.size:
            raise RunError(
                f"{file.path}: {file.path.stat().st_size} bytes where {file.size} were due; run the same command again"
            )


def unpack_cases(archive: Path, destination: Path) -> int:
    """Unpack example cases beside the archive, keeping existing files; returns how many files were new.

    Raises:
        RunError: not a zip file, or one that reaches out of its folder.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            bad = [member.filename for member in members if not _safe(member.filename)]
            if bad:
                raise RunError(f"{archive}: holds {bad[0]!r}, which reaches out of its folder; nothing was unpacked")
            new = [member for member in members if not (destination / member.filename).exists()]
            for member in new:
                file.extract(member, destination)
    except zipfile.BadZipFile as error:
        raise RunError(f"{archive}: not a whole zip file ({error}); delete it and run again") from None
    return len(new)


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _unreachable(error: Exception) -> RunError:
    from huggingface_hub import constants

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return RunError(
        f"{constants.ENDPOINT}: cannot be fetched from ({reason}); what came so far is kept and the same "
        "command goes on; where the hub is blocked, set HF_ENDPOINT to a mirror"
    )
