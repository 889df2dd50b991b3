"""What the page does when something happens on it. A handler returns the components that change, with their values."""

import random
from types import SimpleNamespace
from typing import Any

import gradio as gr

from animation.app import looks, results
from animation.app.check import Check, nearest_person
from animation.app.components import value_of
from animation.app.jobs import DONE, FAILED, RUNNING, STOPPED, WAITING, Job, Uploads
from animation.app.server import Server
from animation.app.settings import CHOSEN
from animation.clip.results import CSIM_PLOT, SIDE_BY_SIDE
from animation.errors import InputError
from animation.weights.layout import CHECKOUT

IN_GALLERY = 24
EXAMPLE = CHECKOUT / "inference" / "case-2" / "reference.png", CHECKOUT / "inference" / "driver.mp4"
EXAMPLE_VALUES = {"preset": "draft", "num_inference_steps": 6}  # what the small networks recommend
CAPTIONS = {WAITING: "waiting", RUNNING: "being made", STOPPED: "stopped", FAILED: "failed"}
LARGEST_DRAWN_SEED = 2**31 - 1


class Events:
    """The page's handlers.

    Args:
        server: what all visitors share.
        parts: the page's components by name, as `page.build` makes them.
    """

    def __init__(self, server: Server, parts: SimpleNamespace):
        self.server, self.parts = server, parts

    def look(self, *shown: Any) -> dict:
        """What is found in the inputs, as soon as they are there."""
        uploads, choices = given(shown)
        try:
            if uploads.photo is None or uploads.driver is None:
                self.server.jobs.check(uploads)
                return self._looked("", Check())
            check = self.server.look(uploads, chosen(choices))
        except InputError as error:
            return self._looked(looks.error(str(error)), Check())
        return self._looked(looks.findings(check.findings), check)

    def _looked(self, told: str, check: Check) -> dict:
        parts = self.parts
        return {
            parts.check: gr.update(visible=bool(told)),
            parts.findings: told,
            parts.pictures: gr.update(visible=check.photo is not None),
            parts.found_photo: check.photo,
            parts.found_driver: check.driver,
            parts.aligned: check.aligned,
            parts.centres: check.centres,
            parts.plan: "",
        } | ({parts.empty: gr.update(visible=False)} if told else {})

    def plan(self, *shown: Any) -> str:
        """How long the clip will take, and how much memory."""
        uploads, choices = given(shown)
        if uploads.photo is None or uploads.driver is None:
            return ""
        try:
            return looks.plan(self.server.plan(uploads, chosen(choices)))
        except InputError:
            return ""  # the look has told it, or the start will

    def pick_person(self, centres: list, event: gr.SelectData) -> str:
        """The one of the driver's people who was clicked on."""
        number = nearest_person(centres, *event.index)
        return "track" if number is None or len(centres) == 1 else str(number)

    def start(self, *shown: Any) -> dict:
        """Put a clip into the queue."""
        uploads, choices = given(shown)
        return self._begun(lambda: self.server.begin(uploads, chosen(choices)))

    def example(self) -> dict:
        """Put the example's clip into the queue, and its photo and driver on the page."""
        photo, driver = map(str, EXAMPLE)
        begun = self._begun(lambda: self.server.begin(Uploads(photo, driver), EXAMPLE_VALUES))
        parts = self.parts
        return begun | {parts.photo: photo, parts.face_photo: None, parts.video: driver, parts.packed: None}

    def again(self, name: str | None) -> dict:
        """Put the shown clip into the queue with another seed."""
        job = self.server.jobs.find(name)
        return {} if job is None else self._begun(lambda: self.server.again(job, seed=drawn_seed()))

    def go_on(self, name: str | None) -> dict:
        """Put the shown clip back into the queue."""
        job = self.server.jobs.find(name)
        return {} if job is None else self._begun(lambda: self.server.go_on(job))

    def cancel(self, name: str | None) -> dict:
        """Stop the shown clip."""
        job = self.server.jobs.find(name)
        if job is None:
            return {}
        self.server.runner.cancel(job)
        stopping = {self.parts.cancel: gr.update(value="Stopping …", interactive=False, visible=True)}
        return self.show(job) | (stopping if job.state == RUNNING else {})

    def remove(self, name: str | None) -> dict:
        """Remove the shown clip."""
        job = self.server.jobs.find(name)
        if job is not None and job.state not in (WAITING, RUNNING):
            self.server.jobs.forget(job)
        return self.show(None)

    def _begun(self, begin: Any) -> dict:
        try:
            return self.show(begin()) | {self.parts.problem: gr.update(value="", visible=False)}
        except InputError as error:
            return {self.parts.problem: gr.update(value=looks.error(str(error)), visible=True)}

    def load(self, name: str | None) -> dict:
        """The page as it is opened: the clip that this browser saw last, and the gallery."""
        return self.show(self.server.jobs.find(name))

    def tick(self, name: str | None, seen: str) -> dict:
        """How the shown clip stands; all of it anew where its state has changed."""
        job, (signature, _, preview) = self.server.jobs.find(name), seen.partition("|")
        if job is None or _signature(job) != signature:
            return self.show(job)
        changes: dict = {self.parts.status: self._status(job)}
        newest = self.server.previews(job) if job.state == RUNNING else None
        if newest is not None and newest.name != preview:
            changes[self.parts.preview] = gr.update(value=str(newest), visible=True)
            changes[self.parts.seen] = f"{signature}|{newest.name}"
        return changes

    def select(self, listed: list[str], event: gr.SelectData) -> dict:
        """Show a clip of the gallery."""
        return self.show(self.server.jobs.find(listed[event.index]) if event.index < len(listed) else None)

    def show(self, job: Job | None) -> dict:
        """Everything about a clip, and the gallery."""
        parts, state = self.parts, None if job is None else job.state
        skeletons = None if job is None else results.skeletons(job)
        done, work = state == DONE, state in (WAITING, RUNNING)
        path = (lambda name: results.found(job, name)) if job is not None and done else (lambda name: None)
        cards = [card for one in self.server.jobs.latest(IN_GALLERY) if (card := _card(one))]
        return {
            parts.shown: None if job is None else job.name,
            parts.seen: "" if job is None else _signature(job),
            parts.timer: gr.Timer(active=work),
            parts.status: gr.update(value="" if job is None else self._status(job), visible=job is not None),
            parts.cancel: gr.update(value="Cancel", interactive=True, visible=work),
            parts.go_on: gr.update(visible=state in (STOPPED, FAILED)),
            parts.again: gr.update(visible=done),
            parts.remove: gr.update(visible=job is not None and not work),
            parts.skeletons: gr.update(
                value=str(skeletons) if skeletons else None, visible=bool(skeletons) and not done
            ),
            parts.preview: gr.update(value=None, visible=False),
            parts.result: gr.update(visible=done),
            parts.clip: path(results.CLIP_FILE),
            parts.side_by_side: path(SIDE_BY_SIDE),
            parts.likeness: path(CSIM_PLOT),
            parts.files: results.files(job) if job is not None and done else None,
            parts.gallery: gr.update(value=[card[1:] for card in cards], visible=bool(cards), selected_index=None),
            parts.gallery_heading: gr.update(visible=bool(cards)),
            parts.listed: [card[0] for card in cards],
        } | ({} if job is None else {parts.empty: gr.update(visible=False)})

    def _status(self, job: Job) -> str:
        runner = self.server.runner
        return looks.run(job, runner.progress(job), runner.place(job), results.figures(job))


def given(shown: tuple) -> tuple[Uploads, tuple]:
    """The uploads, and the choices, of what the page's components show."""
    photo, face_photo, video, packed, *choices = shown
    return Uploads(photo, video or packed, face_photo), tuple(choices)


def chosen(shown: tuple) -> dict[str, Any]:
    """A clip's settings by name, as the components show them."""
    return {name: value_of(name, value) for name, value in zip(CHOSEN, shown, strict=True)}


def drawn_seed() -> int:
    """A seed by chance."""
    return random.SystemRandom().randint(0, LARGEST_DRAWN_SEED)


def _signature(job: Job) -> str:
    """What of a clip changes what is shown of it, beside its progress."""
    return f"{job.name} {job.state} {job.changed} {results.skeletons(job) is not None}"


def _card(job: Job) -> tuple[str, str, str] | None:
    """A clip in the gallery: its name, its poster and a caption; None where its files are gone."""
    try:
        poster = results.poster(job)
    except (InputError, OSError):
        return None
    return job.name, str(poster), CAPTIONS.get(job.state) or results.figures(job).partition(" · made")[0]
