"""The skeletons of a clip: the driver's, fitted to the photo on its canvas, kept for a later run of the same."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation.clip.driver import Driver
from animation.clip.settings import SKELETONS_FOLDER, ClipSettings
from animation.errors import InputError
from animation.files import describe_file, read_json, write_json
from animation.media.framing import Framing
from animation.media.images import FrameFolder, open_rgb, same_shape, warn_if_stretched
from animation.media.video import FolderFrames
from animation.media.writing import PARTIAL_FOLDER, publish_frames, write_png
from animation.networks import Networks
from animation.skeletons.estimation import record
from animation.skeletons.extraction import arrangement_choices, report, write_skeletons
from animation.skeletons.settings import SkeletonChoices, SkeletonInputs
from DWPose.arrangement import arrange, photo_person
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.keypoints import People
from DWPose.recording import KEYPOINTS_FILE, Drawn, Recording, load_recording

logger = logging.getLogger(__name__)

MADE_FILE = "made_of.json"  # beside the skeletons: what they were made of


def make_skeletons(
    settings: ClipSettings, photo: Path, framing: Framing, driver: Driver, networks: Networks
) -> tuple[FrameFolder, float]:
    """Write the clip's skeletons to the intermediate folder, or leave those that are there and made of the same.

    The driver's part is repeated `--loop` times, at most for `--max_seconds`; with `--anchor photo` the photo's own
    skeleton comes first.

    Args:
        photo: the file of the photo on its canvas.
        framing: how the photo lies there, and where the face is of the person who counts.
        networks: that are open already.

    Returns:
        The skeletons, of the canvas's size, in the order of the clip; and how many seconds the driver's part lasts
        that they repeat.

    Raises:
        InputError: the driver is damaged further on, nobody is in it, or nobody in the photo.
    """
    folder = settings.intermediate / SKELETONS_FOLDER
    made_of = _made_of(settings, photo, framing, driver)
    made = read_json(folder / MADE_FILE)
    if made.get("of") == made_of and len(list(folder.glob("frame_*.png"))) == made.get("frames"):
        logger.info(f"{folder}: {made['frames']} skeletons of an earlier run are taken")
        return FrameFolder(folder), made["part"] / driver.fps
    (folder / MADE_FILE).unlink(missing_ok=True)
    make = _copy if driver.kind == "poses" else _extract
    count, part = make(settings, photo, framing, driver, folder, networks)
    write_json(folder / MADE_FILE, {"frames": count, "part": part, "of": made_of})
    return FrameFolder(folder), part / driver.fps


def digest(frames: FrameFolder) -> str:
    """SHA-256 over the names and bytes of a folder's frames."""
    lines = [f"{path.name}\n{describe_file(path)['sha256']}\n" for path in frames.paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _made_of(settings: ClipSettings, photo: Path, framing: Framing, driver: Driver) -> dict:
    """All that the skeletons depend on, JSON values."""
    networks = settings.skeleton_settings(photo, (framing.width, framing.height), None)
    paths = map(Path, (networks.detector_path, networks.pose_path))
    made_of = {
        "driver": driver.describe(),
        "photo": describe_file(photo),
        "size": [framing.width, framing.height],
        "face": framing.face,
        "networks": [describe_file(path) for path in paths if path.is_file()],
        **settings.shared(SkeletonChoices),
        **{name: getattr(settings, name) for name in ("loop", "max_seconds", "anchor")},
    }
    return json.loads(json.dumps(made_of))


def _extract(
    settings: ClipSettings, photo: Path, framing: Framing, driver: Driver, folder: Path, networks: Networks
) -> tuple[int, int]:
    """Of a video, frames or key points: find people, choose and align, draw."""
    size = framing.width, framing.height
    choices = settings.skeleton_settings(photo, size, driver)
    needs_photo = settings.alignment != "none" or settings.anchor == "photo"
    inputs = SkeletonInputs(open_rgb(photo) if needs_photo else None, driver.frames, driver.recording, size)
    recording = record(choices, inputs, networks)
    recording.give_to(describe_file(photo), framing.face)
    if driver.recording is None:
        folder.mkdir(parents=True, exist_ok=True)
        recording.save(folder / KEYPOINTS_FILE)  # an interrupt from here on costs no network's work
    arrangement = arrange(recording, size=size, **arrangement_choices(settings))
    report(arrangement, recording)
    numbers = looped(arrangement.drawn.num_frames, driver.fps, settings.loop, settings.max_seconds)
    recording.drawn = select(arrangement.drawn, numbers)
    if settings.anchor == "photo":
        person = photo_person(recording, settings.person == "all", settings.confidence)
        recording.drawn = prepend(person, recording.drawn)
    write_skeletons(folder, recording, settings.confidence, settings.canvas)
    return recording.drawn.num_frames, arrangement.drawn.num_frames


def _copy(
    settings: ClipSettings, photo: Path, framing: Framing, driver: Driver, folder: Path, networks: Networks
) -> tuple[int, int]:
    """Of a folder of skeletons: bring them on the canvas, and the key points beside them, where there are some."""
    source, size = driver.frames, (framing.width, framing.height)
    assert isinstance(source, FolderFrames)
    place = placing(framing, source.size)
    people = _photo_people(settings, photo, framing, networks) if settings.anchor == "photo" else None
    kept = source.numbers
    numbers = [kept[i] for i in looped(len(kept), driver.fps, settings.loop, settings.max_seconds)]

    def images() -> Iterator[np.ndarray]:
        if people is not None:
            yield draw(people.keypoints, people.scores, *size, settings.confidence, settings.canvas or SHORT_SIDE)
        for number in tqdm(numbers, desc="skeletons", unit="frame"):
            yield np.asarray(place(source.folder[number]))

    partial, count = folder / PARTIAL_FOLDER, 0
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for image in images():
            write_png(partial / f"frame_{count}.png", image)
            count += 1
        publish_frames(partial, folder, count)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    (folder / KEYPOINTS_FILE).unlink(missing_ok=True)
    recording = _key_points_of(driver.path / KEYPOINTS_FILE, source, framing, numbers, people)
    if recording is not None:
        recording.give_to(describe_file(photo), framing.face)
        recording.save(folder / KEYPOINTS_FILE)
    return count, source.estimated_length


def _key_points_of(
    beside: Path, source: FolderFrames, framing: Framing, numbers: list[int], people: People | None
) -> Recording | None:
    """The key points beside a folder's skeletons, which these were drawn from, for the same frames, on the canvas."""
    if not beside.is_file():
        return None
    recording = load_recording(beside)
    if recording.drawn is None or recording.drawn.num_frames <= max(source.numbers):
        logger.warning(f"{beside}: is of other skeletons than those beside it, and is passed over")
        return None
    drawn = select(recording.drawn, numbers)
    if same_shape(source.size, framing.photo_size):
        seen = np.divide(np.reshape(framing.source, (2, 2)), framing.photo_size)
        box = np.divide(np.reshape(framing.box, (2, 2)), (framing.width, framing.height))
        drawn.keypoints = (drawn.keypoints - seen[0]) * ((box[1] - box[0]) / (seen[1] - seen[0])) + box[0]
    drawn.size = framing.width, framing.height
    recording.drawn = drawn if people is None else prepend(people, drawn)
    return recording


def placing(framing: Framing, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """How skeletons of a size, (width, height), come on the canvas: as the photo, where they are of its shape."""
    canvas = framing.width, framing.height
    if same_shape(size, framing.photo_size) and not same_shape(size, canvas):
        logger.info(f"the skeletons of {size[0]}×{size[1]} are fitted to {canvas[0]}×{canvas[1]} as the photo is")
        return lambda image: framing.apply(image, (0, 0, 0))
    warn_if_stretched("skeletons", [size], canvas, "extract them at the photo's shape, or they may not fit it")
    return lambda image: image.resize(canvas, Image.Resampling.BICUBIC)


def looped(count: int, fps: float, loop: int, max_seconds: float | None) -> list[int]:
    """The numbers of `count` frames, repeated, for at most some seconds; at least one."""
    numbers = list(range(count)) * loop
    return numbers if max_seconds is None else numbers[: max(1, round(max_seconds * fps))]


def select(drawn: Drawn, numbers: Sequence[int]) -> Drawn:
    """What was drawn in some frames, in their order; a frame may come more than once."""
    rows = [np.flatnonzero(drawn.frames == number) for number in numbers]
    kept = np.concatenate(rows)
    frames = np.repeat(np.arange(len(numbers)), [len(row) for row in rows])
    return Drawn(frames, drawn.keypoints[kept], drawn.scores[kept], drawn.size, len(numbers))


def prepend(people: People, drawn: Drawn) -> Drawn:
    """With a first frame of the photo's people, 134 key points each in 0..1 of the picture."""
    frames = np.concatenate([np.zeros(len(people), int), drawn.frames + 1])
    keypoints = np.concatenate([people.keypoints, drawn.keypoints])
    scores = np.concatenate([people.scores, drawn.scores])
    return Drawn(frames, keypoints, scores, drawn.size, drawn.num_frames + 1)


def _photo_people(settings: ClipSettings, photo: Path, framing: Framing, networks: Networks) -> People:
    """The photo's person, or with `--person all` its people, 134 key points each in 0..1 of it."""
    from DWPose.wholebody import Wholebody

    picture = np.asarray(open_rgb(photo))
    choices = settings.skeleton_settings(photo, (512, 512), None)
    found = networks.open(Wholebody, choices.detector_path, choices.pose_path, choices.device).estimate(picture)
    size = picture.shape[1::-1]
    recording = Recording(found, size, [], size, 1.0, face=framing.face)
    try:
        return photo_person(recording, settings.person == "all", settings.confidence)
    except InputError as error:
        raise InputError(f"--anchor photo: {str(error).partition(';')[0]}; use --anchor first") from None
