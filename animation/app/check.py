"""What is likely to go well or wrong with a clip, before it is made: the doctor's findings, and pictures of them."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from animation.clip.settings import ClipInputs, ClipSettings
from animation.clip.skeletons import placing
from animation.errors import InputError
from animation.face.detection import Face, FaceFinder
from animation.face.embedding import choose_face
from animation.media.video import FolderFrames
from animation.skeletons.extraction import arrangement_choices
from animation.skeletons.preview import skeleton_panels
from animation.weights.diagnosis import check_views, judge_distance, judge_faces
from animation.weights.verification import OK, Finding, guarded
from DWPose.arrangement import arrange, photo_person
from DWPose.keypoints import People
from DWPose.recording import Recording
from DWPose.wholebody import MODEL_FILES, Wholebody

SIDE = 720  # pixels, of the longer side of a picture that is shown
DIMMED = 0.45  # what is left of the photo under a skeleton
FACE_COLOUR, PERSON_COLOUR, OTHER_COLOUR = "#e8590c", "#0c8599", "#868e96"


@dataclass
class Check:
    """What was found.

    Attributes:
        findings: one line each, with a level.
        photo: with its face and person framed.
        driver: its first frame, with the people framed.
        aligned: the first skeleton over the photo, as the run would have it; None where there is none.
        centres: of the driver's people in pixels of its picture, in the order of `--person N`.
    """

    findings: list[Finding] = field(default_factory=list)
    photo: Image.Image | None = None
    driver: Image.Image | None = None
    aligned: Image.Image | None = None
    centres: list[tuple[float, float]] = field(default_factory=list)


class Checker:
    """Looks at photos and drivers, with networks that are opened once. One look at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made_of: tuple = ()

    def __call__(self, settings: ClipSettings, inputs: ClipInputs) -> Check:
        """Look at a clip's inputs.

        Args:
            settings: resolved.
            inputs: what they read.
        """
        with self._lock:
            check = Check()
            check.findings += guarded("photo and driver", self._look(settings, inputs, check))
            return check

    def _networks(self, settings: ClipSettings) -> tuple[FaceFinder, Wholebody]:
        made_of = settings.face_models, settings.dwpose_models
        if self._made_of != made_of:
            detector, pose = (Path(settings.dwpose_models) / name for name in MODEL_FILES)
            self._faces = FaceFinder(settings.face_models, Path(settings.dwpose_models))
            self._people = Wholebody(detector, pose)
            self._made_of = made_of
        return self._faces, self._people

    def _look(self, settings: ClipSettings, inputs: ClipInputs, check: Check) -> Iterator[Finding]:
        """Findings as they are made, with pictures of them."""
        find_faces, find_people = self._networks(settings)
        framing, (in_photo, _) = inputs.framing, find_faces(np.asarray(inputs.photo))
        if in_photo:
            framing = framing.keeping(choose_face(in_photo, settings.face).box.tolist())
        canvas = framing.apply(inputs.photo)
        kept, own = inputs.face_photo or canvas, inputs.face_photo is None  # the picture whose face is kept
        faces, way = find_faces(np.asarray(kept))
        people = find_people.estimate(np.asarray(canvas))
        check.photo = _small(canvas)
        _frame_people(check.photo, canvas.size, people, None)
        if faces and own:
            near = framing.face and np.multiply(framing.face, canvas.size)
            _frame_faces(check.photo, canvas.size, faces, choose_face(faces, near=near))
        yield judge_faces(kept.size, faces, way, own)
        recording = Recording(people, canvas.size, [], (1, 1), inputs.driver.fps, face=framing.face)
        found = photo_person(recording, settings.person == "all", settings.confidence)
        yield Finding(OK, "photo's person", f"found, confidence {found.scores[:, :18].mean():.2f}")
        frames = inputs.driver.frames
        if inputs.driver.kind == "poses":
            assert isinstance(frames, FolderFrames)
            placed = placing(framing, frames.size)(frames.folder[frames.numbers[0]])
            check.driver, check.aligned = _small(placed), _over(canvas, np.asarray(placed))
            yield Finding(OK, "driver", f"{len(frames.numbers)} skeletons, taken as they are")
            return
        assert frames is not None
        first = next(iter(frames))
        driving = find_people.estimate(first)
        check.driver = _small(Image.fromarray(first))
        if not driving.detected:
            raise InputError("nobody is found in the driver's first frame; start where the person is in view")
        chosen = int(settings.person) if settings.person.isdecimal() else None
        check.centres = _frame_people(check.driver, (first.shape[1], first.shape[0]), driving, chosen)
        yield Finding(OK, "driver's person", f"{len(check.centres)} found in the first frame")
        recording.video, recording.video_size = [driving], first.shape[1::-1]
        yield check_views(people, driving)
        choices = arrangement_choices(settings) | {"smooth": False, "outliers": "keep"}  # those want more frames
        arrangement = arrange(recording, size=canvas.size, **choices)
        (skeleton,) = skeleton_panels(arrangement.drawn, settings.confidence, settings.canvas)
        check.aligned = _over(canvas, skeleton)
        if arrangement.distances is not None:
            yield judge_distance(arrangement.distances[0])


def nearest_person(centres: Sequence[tuple[float, float]], x: float, y: float) -> int | None:
    """Which of the driver's people, from the left, is nearest to a place in its picture; None without any."""
    distances = [(a - x) ** 2 + (b - y) ** 2 for a, b in centres]
    return int(np.argmin(distances)) if distances else None


def _small(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _frame_people(
    shown: Image.Image, size: tuple[int, int], people: People, chosen: int | None
) -> list[tuple[float, float]]:
    """Frame the people of a picture of a size where it is shown, and return their centres there, from the left."""
    if not people.detected:
        return []
    boxes = people.boxes[np.argsort(people.boxes[:, [0, 2]].sum(axis=1), kind="stable")] * (shown.width / size[0])
    for number, box in enumerate(boxes):
        colour = PERSON_COLOUR if chosen in (None, number) else OTHER_COLOUR
        _frame(shown, box, colour, radius=10)
    return [(float(x), float(y)) for x, y in (boxes[:, :2] + boxes[:, 2:]) / 2]


def _frame_faces(shown: Image.Image, size: tuple[int, int], faces: Sequence[Face], chosen: Face) -> None:
    """Frame a photo's faces where it is shown, the one that counts in a colour of its own."""
    for face in faces:
        colour = FACE_COLOUR if face is chosen else OTHER_COLOUR
        _frame(shown, face.box * (shown.width / size[0]), colour, radius=6)


def _frame(shown: Image.Image, box: np.ndarray, colour: str, radius: int) -> None:
    """Draw a frame, within the picture."""
    left, top = np.clip(box[:2], 2, np.array(shown.size) - 12)
    right, bottom = np.maximum(np.minimum(box[2:], np.array(shown.size) - 3), (left + 8, top + 8))
    ImageDraw.Draw(shown).rounded_rectangle((left, top, right, bottom), radius, outline=colour, width=4)


def _over(photo: Image.Image, skeleton: np.ndarray) -> Image.Image:
    """A skeleton in its own colours over the dimmed photo."""
    under = np.asarray(photo.resize(skeleton.shape[1::-1], Image.Resampling.BICUBIC)) * DIMMED
    return _small(Image.fromarray(np.where(skeleton.any(axis=-1, keepdims=True), skeleton, under).astype(np.uint8)))
