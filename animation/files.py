"""Files that are whole or not there, and what tells one from another."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from animation.errors import InputError

LOCK_FILE, OWNER_FILE = ".lock", ".lock.json"


def write_whole(path: Path, write: Callable[[Path], object], partial: Path | None = None) -> None:
    """Write a file atomically: under another name, then renamed. Killed at any moment, the old or the new one is there.

    Args:
        path: its folder is made where missing.
        write: writes the file that it is given, whose name has the same ending.
        partial: the other name, of the same ending and file system, where another process may write the same file.
    """
    partial = partial or path.with_name(f".partial-{path.name}")
    for folder in (path.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)  # if it were a link, the file would be written to where that points
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder within the context, so that a second run into it is refused; a dead process holds nothing.

    The folder is made where missing, and removed again where nothing was written to it. Raises InputError, naming the
    process that holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path, owner = folder / LOCK_FILE, folder / OWNER_FILE
    refuse_links(folder, [LOCK_FILE, OWNER_FILE])
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        held = read_json(owner)
        who = f"process {held['process']} on {held['host']}, since {held['since']}" if held else "another process"
        raise InputError(f"{folder}: {who} is at work there; wait for it, or give another output folder") from None
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(owner, {"process": os.getpid(), "host": platform.node(), "since": now})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
        path.unlink(missing_ok=True)
        for folder_made in made:
            with contextlib.suppress(OSError):  # it holds results
                folder_made.rmdir()


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError where one of these in a folder is a symbolic link: results would land where it points."""
    for path in (folder / name for name in names):
        if path.is_symlink():
            where = f"a symbolic link to {path.readlink()}, where results would go"
            raise InputError(f"{path}: {where}; remove it, or give another output folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object; empty where there is nothing, or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def describe_file(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
