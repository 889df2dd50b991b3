"""Arrays computed once from an image file, kept on disk: face embeddings and VAE latents."""

import glob
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from animation.files import write_whole

WRITING_FOLDER = ".writing"  # where files are until they are whole: HOST+PROCESS+NAME


@dataclass(frozen=True)
class FrameCache:
    """One .npy file an image. It is found by the image's path, size and time of change, so that none is ever stale.

    Several processes may read and write at once: a file is whole or not there.
    """

    folder: Path

    def path(self, image: Path) -> Path:
        """Where the array of an image is, or would be."""
        image = image.resolve()
        facts = image.stat()
        key = hashlib.sha1(f"{image}|{facts.st_size}|{facts.st_mtime_ns}".encode(), usedforsecurity=False).hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.npy"

    def read(self, image: Path) -> np.ndarray | None:
        """The array of an image; None where it is not there, or damaged."""
        try:
            return np.load(self.path(image), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    def write(self, image: Path, array: np.ndarray) -> None:
        """Keep the array of an image, and remove what processes of this machine that have ended left half-written."""
        path, writing, own = self.path(image), self.folder / WRITING_FOLDER, f"{platform.node()}+"
        for left in writing.glob(f"{glob.escape(own)}*"):
            process = left.name.removeprefix(own).partition("+")[0]
            if not (process.isdecimal() and psutil.pid_exists(int(process))):
                left.unlink(missing_ok=True)
        write_whole(path, lambda partial: np.save(partial, array), writing / f"{own}{os.getpid()}+{path.name}")
