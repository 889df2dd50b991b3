"""The released checkpoints, from the Hugging Face hub into their layout. Only ever on the user's command."""

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from animation.errors import InputError, RunError

REPOSITORY = "FrancisRing/StableAnimator"
CASES_ARCHIVE = "inference.zip"
# What is fetched for each part, and the folder that it goes into. Of Stable Video Diffusion, its UNet's own weights are
# left out, which `unet.pth` replaces, and its single-file checkpoints.
PARTS = {
    "animation": (["Animation/*"], "checkpoints"),
    "svd": (["SVD/*.json", "SVD/*.md", "SVD/*vae/*", "SVD/*image_encoder/*"], "checkpoints"),
    "dwpose": (["DWPose/*"], "checkpoints"),
    "antelopev2": (["antelopev2/*"], "models"),
    "cases": ([CASES_ARCHIVE], "."),
}
IGNORED = ["SVD/*.fp16.*", "*..*"]  # twins in half precision, and names that may leave their folder
LICENCES = {
    "svd": "Stable Video Diffusion is under Stability AI's own licence, which binds commercial use: "
    "https://stability.ai/license",
    "antelopev2": "insightface's models are for non-commercial research only: "
    "https://github.com/deepinsight/insightface#license",
}
SPARE_BYTES = 1 << 30  # that should stay free on the disk
LARGEST_CASES = 4 << 30  # bytes that example cases may unpack to


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub, and where it goes."""

    part: str  # of `PARTS`
    name: str  # path in the repository
    size: int | None  # bytes; None where the hub does not say
    folder: Path  # the local one that the repository's path is put into
    commit: str

    @property
    def path(self) -> Path:
        """Where it goes."""
        return self.folder / self.name

    @property
    def is_whole(self) -> bool:
        """Whether it is there with its size."""
        return self.path.is_file() and self.size in (None, self.path.stat().st_size)


def plan(
    parts: Sequence[str], destination: str | Path, repository: str = REPOSITORY, revision: str | None = None
) -> list[RemoteFile]:
    """Ask the hub which files the parts are; nothing is fetched or written. Raises RunError: it cannot be reached.

    Raises InputError: a part is unknown, the repository has none of it, does not exist, or wants an account.
    """
    files = []
    for part in parts:
        if part not in PARTS:
            raise InputError(f"--parts {part} is unknown; give some of {', '.join(PARTS)}")
        patterns, folder = PARTS[part]
        found = _snapshot(repository, revision, patterns, dry_run=True)
        if not found:
            raise InputError(f"{repository}: has no {patterns[0]}; leave {part} out of --parts, or check the name")
        files += [
            RemoteFile(part, info.filename, info.file_size, Path(destination) / folder, info.commit_hash)
            for info in sorted(found, key=lambda info: info.filename)
        ]
    return files


def fetch(files: Sequence[RemoteFile], destination: str | Path, repository: str = REPOSITORY) -> None:
    """Fetch what is missing of a plan; an interrupted fetch resumes. Raises InputError: too little room on the disk.

    Raises RunError: the hub cannot be reached, or sent something else.
    """
    missing = _missing(files)
    resolved = Path(destination).resolve()
    free = shutil.disk_usage(next(path for path in (resolved, *resolved.parents) if path.exists())).free
    if missing and free < missing + SPARE_BYTES:
        raise InputError(
            f"{destination}: {_size(free)} free and {_size(missing)} to fetch, with {_size(SPARE_BYTES)} "
            "to spare; make room, choose --parts, or give another --destination"
        )
    for part, commit, folder in dict.fromkeys((file.part, file.commit, file.folder) for file in files):
        _snapshot(repository, commit, PARTS[part][0], local_dir=folder)
    for file in files:
        if not file.is_whole:
            found = file.path.stat().st_size if file.path.is_file() else 0
            raise RunError(f"{file.path}: {found} bytes where {file.size} were due; run the same command again")


def _snapshot(repository: str, revision: str | None, patterns: list[str], **options: Any) -> Any:
    """What `snapshot_download` returns, with the hub's errors in one line."""
    from huggingface_hub import constants, errors, snapshot_download

    options |= {"revision": revision, "allow_patterns": patterns, "ignore_patterns": IGNORED}
    try:
        return snapshot_download(repository, **options)
    except Exception as error:  # the hub's transport raises types of its own
        cause = error.__cause__ or error if isinstance(error, errors.DryRunError) else error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if isinstance(cause, errors.GatedRepoError):
            remedy = "do that on its page, then log in with `hf auth login`"
            raise InputError(f"{repository}: asks for its licence to be accepted; {remedy}") from None
        if isinstance(cause, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
            remedy = "check the name and --revision"
            raise InputError(f"{repository}: not on {constants.ENDPOINT} ({reason}); {remedy}") from None
        raise RunError(
            f"{constants.ENDPOINT}: cannot be fetched from ({reason}); what came so far is kept and the same "
            "command resumes; where the hub is blocked, set HF_ENDPOINT to a mirror"
        ) from None


def describe(files: Sequence[RemoteFile]) -> str:
    """The plan as lines: each file with its size and place, the totals, and the licences."""
    lines = [f"{_size(file.size):>9}  {file.name} → {file.path.parent}" for file in files]
    total = sum(file.size or 0 for file in files)
    lines.append(f"{_size(total):>9}  in all, {_size(_missing(files))} of it to fetch")
    parts = {file.part for file in files}
    return "\n".join([*lines, *(f"licence: {text}" for part, text in LICENCES.items() if part in parts)])


def _missing(files: Sequence[RemoteFile]) -> int:
    return sum(file.size or 0 for file in files if not file.is_whole)


def _size(count: float | None) -> str:
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def unpack_cases(archive: Path, destination: Path) -> int:
    """Unpack example cases, keeping existing files; returns how many files were new.

    Raises RunError: not a zip file, or one that reaches out of its folder or unpacks to more than `LARGEST_CASES`.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            names = [member.filename for member in file.infolist() if not member.is_dir()]
            for name in names:
                if PurePosixPath(name).is_absolute() or ".." in name or "\\" in name:
                    raise RunError(f"{archive}: holds {name!r}, which reaches out of its folder; nothing was unpacked")
            size = sum(member.file_size for member in file.infolist())
            if size > LARGEST_CASES:
                raise RunError(f"{archive}: unpacks to {_size(size)}; nothing was unpacked")
            new = [name for name in names if not (destination / name).exists()]
            file.extractall(destination, new)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise RunError(f"{archive}: not a whole zip file ({error}); delete it and run again") from None
    return len(new)
