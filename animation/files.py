"""Files, whatever they hold."""

import hashlib
from pathlib import Path


def describe_file(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
