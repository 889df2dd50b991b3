"""The page's one public endpoint, `/animate`: a photo and a driver become a clip, for Gradio's client."""

import asyncio
from typing import Any

import gradio as gr

from animation.app import results
from animation.app.jobs import DONE, FAILED, RUNNING, WAITING, Uploads
from animation.app.server import Server
from animation.app.uploads import as_path
from animation.clip.request import RUN_FILE
from animation.errors import InputError
from animation.files import read_json

LOOK = 0.5  # seconds between looks at the run


def add_api(server: Server) -> None:
    """Add the endpoint to the page that is being built."""

    async def animate(
        photo: str,
        driver: str,
        settings: Any,
        face_photo: str | None = None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, dict]:
        """Animate a photo with a driver, and wait for it.

        Args:
            photo: a picture.
            driver: a video, or a zip of numbered pictures.
            settings: of the clip, by the names of animate.py's flags.
            face_photo: another picture of the same person, whose face is kept.

        Returns:
            The clip, the same side by side with photo, driver and skeleton, and what run.json says.
        """
        try:
            if not isinstance(settings or {}, dict):
                raise InputError("settings are no object; give settings by their names")
            job = await asyncio.to_thread(server.begin, Uploads(photo, driver, face_photo), settings or {})
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        while job.state in (WAITING, RUNNING):
            now = server.runner.progress(job)
            progress((now.done, now.of) if now.of else 0, desc=now.stage if job.state == RUNNING else "Waiting")
            await asyncio.sleep(LOOK)
        if job.state != DONE:
            what = job.error if job.state == FAILED else "the clip was cancelled"
            raise gr.Error(str(what), print_exception=False)
        clip, panels = (str(job.result / name) for name in (results.CLIP_FILE, results.SIDE_BY_SIDE))
        return clip, panels, read_json(job.result / RUN_FILE)

    with gr.Column(visible=False):
        inputs = [
            as_path(gr.Image(label="photo", type="filepath")),
            as_path(gr.File(label="driver")),
            gr.JSON(label="settings", value={}),
            as_path(gr.Image(label="face_photo", type="filepath")),
        ]
        outputs = [gr.File(label="clip"), gr.File(label="side by side"), gr.JSON(label="run")]
        gr.Button().click(animate, inputs, outputs, api_name="animate", concurrency_limit=None)
