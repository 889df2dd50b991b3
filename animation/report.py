"""run.json: what a run did, with what, and how long it took."""

import contextlib
import importlib.metadata
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from animation.files import describe_file, write_json

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow", "av", "insightface")


class RunReport:
    """Collects the facts of a run on a device, its settings (JSON values) first, and writes them at its end.

    Args:
        hashing: whether files are described; of several processes the first one does it.
    """

    def __init__(self, settings: dict, device: torch.device, hashing: bool = True):
        self.device, self.hashing = device, hashing
        about = {"device": device_name(device), "versions": library_versions()}
        self.facts: dict[str, Any] = {"settings": settings, **about, "seconds": {}}
        self._files: dict[str, dict] = {}
        self._threads: list[threading.Thread] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, in seconds, with the device's work in it."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.facts["seconds"][name] = round(time.perf_counter() - start, 3)

    def add_files(self, paths: Iterable[str | Path]) -> None:
        """Record files' sizes and SHA-256 hashes, or why one cannot be read; they are hashed in the background."""
        paths = list(paths)

        def describe() -> None:
            for path in paths:
                try:
                    self._files[str(path)] = describe_file(Path(path))
                except OSError as error:
                    self._files[str(path)] = {"error": error.strerror or str(error)}

        if self.hashing:
            self._threads.append(threading.Thread(target=describe, daemon=True))  # a failed run does not wait for it
            self._threads[-1].start()

    def write(self, path: str | Path, **facts) -> None:
        """Write everything as JSON, whole or not at all."""
        for thread in self._threads:
            thread.join()
        self.facts |= {"files": self._files, "peak_memory_bytes": peak_memory(self.device), **facts}
        write_json(Path(path), self.facts)


def device_name(device: torch.device) -> str:
    """The device with the name of its hardware."""
    return f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()})"


def library_versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of those libraries that are installed."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes that this process held, on the host and on a CUDA device."""
    import psutil

    host = getattr(psutil.Process().memory_info(), "peak_wset", None)  # on Windows
    if host is None:
        import resource

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return {"host": host} | ({"device": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {})
