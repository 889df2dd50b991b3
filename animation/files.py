"""Files that are whole or not there, and what tells one from another."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: under another name, then renamed. Killed at any moment, the old or the new one is there.

    Args:
        path: its folder is made where missing.
        write: writes the file that it is given, whose name has the same ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")  # several processes may write the same file
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
