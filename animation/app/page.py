"""The page: what is on it, and what happens when."""

from types import SimpleNamespace
from typing import Any

import gradio as gr

from animation.app import looks
from animation.app.api import add_api
from animation.app.components import component
from animation.app.events import EXAMPLE, Events, drawn_seed
from animation.app.server import Server
from animation.app.settings import ADVANCED, CHOSEN
from animation.app.uploads import as_path

LOOKED_AT = ("size", "fit", "alignment", "person", "face", "start", "end", "confidence", "canvas")
PLANNED_WITH = ("preset", "num_inference_steps", "face_optimization", "loop", "max_seconds", "fps", "tile_size")
HEIGHT = 258  # of an upload, pixels
TICK = 1.0  # seconds between looks at a run
TO_OUTCOME = "() => document.getElementById('outcome').scrollIntoView({behavior: 'smooth', block: 'nearest'})"
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(server: Server, preset: str, keep_hours: float) -> gr.Blocks:
    """The page of a server; `preset` is the one that is chosen at first."""
    parts = SimpleNamespace(settings={})
    cleaning = (600, round(3600 * keep_hours))
    with gr.Blocks(title="StableAnimator", analytics_enabled=False, fill_width=True, delete_cache=cleaning) as page:
        gr.HTML(looks.head(server.checkpoints.tiny))
        with gr.Row(elem_classes="columns", equal_height=False):
            with gr.Column(scale=1, min_width=320, elem_classes="panel"):
                _inputs(parts, preset, server.checkpoints.tiny and all(path.is_file() for path in EXAMPLE))
            with gr.Column(scale=1, min_width=320, elem_classes="panel", elem_id="outcome"):
                _outcome(parts)
        _gallery(parts)
        parts.shown, parts.seen = gr.BrowserState(None, storage_key="stableanimator", secret="page"), gr.State("")
        parts.centres, parts.listed = gr.State([]), gr.State([])
        parts.timer = gr.Timer(TICK, active=False)
        _connect(page, parts, Events(server, parts))
        add_api(server)
    return page


def _inputs(parts: SimpleNamespace, preset: str, example: bool) -> None:
    """Photo, driver and settings; the drawn example where the networks know it."""

    def setting(name: str, **changes: Any) -> None:
        parts.settings[name] = component(name, **changes)

    with gr.Row(elem_classes="uploads"):
        with gr.Column(min_width=240):
            gr.HTML(looks.heading("Photo"))
            picture: dict[str, Any] = {"type": "filepath", "sources": ["upload", "clipboard", "webcam"]}
            picture |= {"height": HEIGHT, "buttons": [], "placeholder": "Drop or paste a photo, or click to choose"}
            with gr.Tabs(elem_classes="kinds"):
                with gr.Tab("Person"):
                    photo = gr.Image(label="Photo of the person", elem_id="photo", **picture)
                with gr.Tab("Face", elem_id="another-face"):
                    face = gr.Image(label="Another picture that shows the face", elem_id="face-photo", **picture)
        with gr.Column(min_width=240):
            gr.HTML(looks.heading("Driver"))
            with gr.Tabs(elem_classes="kinds"):
                with gr.Tab("Video"):
                    video = gr.Video(
                        label="Video whose movement is taken", sources=["upload"], height=HEIGHT, elem_id="driver"
                    )
                with gr.Tab("Skeletons", elem_id="zipped"):
                    packed = gr.File(
                        label="Zip of numbered pictures", file_types=[".zip"], height=HEIGHT, elem_id="zip"
                    )
    parts.photo, parts.face_photo, parts.video, parts.packed = map(as_path, (photo, face, video, packed))
    parts.problem = gr.HTML(visible=False, elem_id="problem")
    with gr.Row():
        parts.go = gr.Button("Animate", variant="primary", elem_id="go", scale=3, min_width=120)
        parts.example = gr.Button("Animate the example", elem_id="example", scale=2, visible=example, min_width=200)
    narrow = {"min_width": 150}
    gr.HTML(looks.heading("Settings"))
    with gr.Row(elem_classes="settings"):
        setting("preset", label="Quality", info="speed or quality", value=preset, **narrow)
        setting("size", label="Size", info="of the picture, in pixels", **narrow)
        setting("face_optimization", label="Face optimisation", info="towards the photo's face", **narrow)
    with gr.Row(elem_classes="settings"):
        setting("start", label="Start", info="seconds into the driver", placeholder="0", **narrow)
        setting("end", label="End", info="seconds into the driver", placeholder="with the driver", **narrow)
        setting("person", label="Person", info="of the driver: click on one", **narrow)
    with gr.Row(elem_classes="settings"):
        setting("alignment", label="Alignment", info="of the driver's body", **narrow)
        setting("anchor", label="Anchor", info="skeleton of all windows", **narrow)
        setting("seed", label="Seed", info="same seed, same frames", **narrow)
    with gr.Row(elem_classes="settings"):
        setting("no_audio", label="Without the driver's sound", info="", scale=2)
        parts.die = gr.Button("⚄ New seed", elem_id="die", min_width=120, scale=1, size="md")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"), gr.Row(elem_classes="settings"):
        for name in ADVANCED:
            setting(name, min_width=230)


def _outcome(parts: SimpleNamespace) -> None:
    """Check, progress and result."""
    parts.empty = gr.HTML(looks.empty())
    parts.status = gr.HTML(visible=False, elem_id="status")
    with gr.Row(elem_classes="actions"):
        small: dict[str, Any] = {"visible": False, "scale": 0, "min_width": 110, "size": "md"}
        parts.go_on = gr.Button("Go on", variant="primary", elem_id="go-on", **small)
        parts.again = gr.Button("Again with another seed", elem_id="again", **(small | {"min_width": 230}))
        parts.cancel = gr.Button("Cancel", elem_id="cancel", **small)
        parts.remove = gr.Button("Remove", elem_id="remove", **small)
    with gr.Row(elem_classes="pictures shows"):
        shown: dict[str, Any] = {"visible": False, "buttons": [], "height": 300, "min_width": 200}
        parts.skeletons = gr.Video(label="Skeletons", loop=True, autoplay=True, elem_id="skeletons", **shown)
        parts.preview = gr.Image(label="Rough preview", type="filepath", elem_id="preview", **shown)
    with gr.Column(visible=False, elem_id="result") as parts.result, gr.Tabs():
        with gr.Tab("Clip"):
            playing: dict[str, Any] = {"loop": True, "buttons": ["download"], "show_label": False}
            parts.clip = gr.Video(label="Clip", height=420, elem_id="clip", **playing)
        with gr.Tab("Side by side"):
            parts.side_by_side = gr.Video(label="Photo, driver, skeleton and clip", **playing)
        with gr.Tab("Likeness"):
            parts.likeness = gr.Image(
                label="Likeness of the face in each frame", type="filepath", buttons=["download", "fullscreen"]
            )
        with gr.Tab("Files"):
            parts.files = gr.File(label="Files to take away", file_count="multiple", interactive=False, elem_id="files")
    with gr.Column(visible=False, elem_id="check") as parts.check:
        gr.HTML(looks.heading("Check", "What was found in the photo and in the driver."))
        parts.findings = gr.HTML()
        parts.plan = gr.HTML()
        with gr.Row(visible=False, elem_classes="pictures") as parts.pictures:
            shown = {"interactive": False, "buttons": ["fullscreen"], "height": 250, "min_width": 120}
            parts.found_photo = gr.Image(label="Face and person", **shown)
            parts.found_driver = gr.Image(label="Driver: click on one", elem_classes="pick", elem_id="pick", **shown)
            parts.aligned = gr.Image(label="First pose on the photo", **shown)


def _gallery(parts: SimpleNamespace) -> None:
    """The clips on disk."""
    parts.gallery_heading = gr.HTML(looks.heading("Latest clips"), visible=False)
    parts.gallery = gr.Gallery(
        visible=False,
        show_label=False,
        label="Latest clips",
        columns=6,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        object_fit="contain",
        interactive=False,
        buttons=[],
        elem_id="gallery",
    )


def _connect(page: gr.Blocks, parts: SimpleNamespace, events: Events) -> None:
    """What happens when."""
    settings = parts.settings
    uploads = [parts.photo, parts.face_photo, parts.video, parts.packed]
    inputs = [*uploads, *(settings[name] for name in CHOSEN)]
    looked = [parts.check, parts.findings, parts.pictures, parts.found_photo, parts.found_driver, parts.aligned]
    looked += [parts.centres, parts.plan, parts.empty]
    shown = [parts.shown, parts.seen, parts.timer, parts.status, parts.cancel, parts.go_on, parts.again, parts.remove]
    shown += [parts.skeletons, parts.preview, parts.result, parts.clip, parts.side_by_side, parts.likeness, parts.files]
    shown += [parts.gallery, parts.gallery_heading, parts.listed, parts.empty, parts.problem]
    latest: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1} | QUIET
    given = [part.change for part in uploads]
    looking = gr.on([*given, *(settings[name].change for name in LOOKED_AT)], events.look, inputs, looked, **latest)
    looking.then(events.plan, inputs, parts.plan, **latest)
    gr.on([settings[name].change for name in PLANNED_WITH], events.plan, inputs, parts.plan, **latest)
    parts.video.upload(lambda: None, None, parts.packed, **QUIET)  # the driver that was given last counts
    parts.packed.upload(lambda: None, None, parts.video, **QUIET)
    parts.found_driver.select(events.pick_person, parts.centres, settings["person"], **QUIET)
    parts.die.click(drawn_seed, None, settings["seed"], **QUIET)
    begun = parts.go.click(events.start, inputs, shown, **QUIET)
    example = parts.example.click(events.example, None, [*shown, *uploads], **QUIET)
    for event in (begun, example):
        event.then(None, js=TO_OUTCOME)
    for button in ("cancel", "go_on", "again", "remove"):
        getattr(parts, button).click(getattr(events, button), parts.shown, shown, **QUIET)
    parts.gallery.select(events.select, parts.listed, shown, **QUIET)
    ticking: dict[str, Any] = {"queue": False, "trigger_mode": "once"} | QUIET
    parts.timer.tick(events.tick, [parts.shown, parts.seen], shown, **ticking)
    page.load(events.load, parts.shown, shown, **QUIET)
