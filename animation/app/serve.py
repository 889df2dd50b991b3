"""The page served: checked flags to a server that answers until it is told to stop."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from animation.app import looks, results
from animation.app.events import EXAMPLE
from animation.app.jobs import Job, Jobs
from animation.app.page import build
from animation.app.preview import Previews
from animation.app.runner import Runner
from animation.app.server import Server
from animation.app.settings import AppSettings
from animation.errors import InputError
from animation.weights.layout import find_checkpoints

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CLEANINGS = 600.0
# Nothing of the page comes from elsewhere, and nothing is sent elsewhere. Gradio's own scripts are inline.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'self'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
CLOSED = ("/file=http", "/file/http", "/proxy=", "/monitoring")  # what of Gradio would fetch for a visitor, or tell


class Guard:
    """Middleware: refuses the addresses that the page has no use for, and adds headers that keep it to this server."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and any(part in scope["path"].lower() for part in CLOSED):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        await self.app(scope, receive, send_with_headers)


@contextlib.contextmanager
def served(settings: AppSettings, devices: list[str | None]) -> Iterator[str]:
    """Serve the page within the context; yields its address.

    Args:
        settings: checked.
        devices: one clip is made at a time on each; None leaves the choice to the run.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(settings.uploads_folder)  # Gradio has no argument for it
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    settings.uploads_folder.mkdir(parents=True, exist_ok=True)
    jobs = Jobs(settings.jobs_folder, settings.limits)
    servers = {} if settings.max_vram is None else {"max_vram": settings.max_vram}
    previews = Previews()

    def finish(job: Job) -> None:
        previews.forget(job)
        results.finish(job)

    runner = Runner(devices, settings.most_waiting, servers, finish)
    server = Server(jobs, runner, find_checkpoints(), servers, previews)
    page = build(server, settings.preset, settings.keep_hours)
    gr.set_static_paths([settings.jobs_folder, *filter(Path.is_file, EXAMPLE)])
    stopped = threading.Event()
    threading.Thread(target=_clean, args=(jobs, settings, stopped), daemon=True).start()
    try:
        address = _launch(page, settings)
        yield address
    finally:
        stopped.set()
        runner.close()
        page.close(verbose=False)


def _launch(page: gr.Blocks, settings: AppSettings) -> str:
    """Open the page to its visitors, and return its address. Raises InputError where the port is taken."""
    try:
        _, address, _ = page.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            auth=settings.credentials,
            max_file_size=settings.limits.bytes,
            theme=looks.theme(),
            css=looks.CSS,
            head=looks.HEAD,
            inbrowser=settings.open,
            app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None},
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            show_error=False,
            footer_links=[],
        )
    except OSError:
        raise InputError(
            f"--port {settings.port} of {settings.host} is taken; give another, or 0 for a free one"
        ) from None
    return address


def _clean(jobs: Jobs, settings: AppSettings, stopped: threading.Event) -> None:
    """Remove what is old, now and then."""
    while True:
        removed = jobs.forget_old(settings.keep_hours)
        if removed:
            logger.info("%d clips of more than %g hours ago are removed", removed, settings.keep_hours)
        remove_old(settings.uploads_folder, settings.keep_hours)
        if stopped.wait(SECONDS_BETWEEN_CLEANINGS):
            return


def remove_old(folder: Path, hours: float) -> None:
    """Remove the files in a folder that are older than so many hours, and the folders that are empty then."""
    before = time.time() - 3600 * hours
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # not empty, or gone already
            if path.lstat().st_mtime < before:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
