"""A page in the browser on which to animate photos.

    python app.py

Opens at http://127.0.0.1:7860, for this machine alone unless --host says otherwise. Nothing leaves this machine.
"""

import importlib.util
import logging
import threading
from pathlib import Path

from animation import cli
from animation.app.settings import AppSettings
from animation.errors import InputError
from animation.flags import parse
from animation.media.writing import check_writable


def main() -> None:
    """Parse, check, serve until interrupted."""
    cli.start_logging()
    logging.getLogger("animation").setLevel(logging.ERROR)  # what a clip's settings tell is for its own log
    logging.getLogger("animation.app").setLevel(logging.INFO)
    settings = parse(AppSettings, __doc__)
    settings.check()
    check_writable(Path(settings.folder), "clips", "uploads")
    if importlib.util.find_spec("gradio") is None:
        raise InputError('Gradio is not installed, and the page is made with it: pip install ".[app]"')
    cli.quiet_libraries()
    import torch

    from animation.app.serve import served

    devices: list[str | None] = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    with served(settings, devices or [None]) as address:
        print(f"The page is at {address}; Ctrl+C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Clips that are being made keep their state", flush=True)
