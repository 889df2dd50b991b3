"""Clips on disk: plain folders, the training layout, and cases for evaluation. Each folder is whole or absent."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from DWPose.errors import InputError
from DWPose.recording import KEYPOINTS_FILE, Drawn, Recording
from puppets.clips import Clip, encode_png, face_masks, make_clip, people, skeleton
from puppets.hiding import WAYS, hide
from puppets.rendering import Truth

FPS = 12.0
FACTS_FILE = "puppets.json"  # how a folder was made
TRUTH_FILE = "truth.npz"
BUCKETS = {"rec": "video_rec_path.txt", "vec": "video_vec_path.txt"}  # the released folders and their lists
CASE_KINDS = ("same", "cross", "hidden")
DRIVERS = 10_000  # added to a case's index: who drives it; the characters that drive are not those that are driven
PHOTO_MOMENT = 0.35  # of a period before the first frame, about


@dataclass(frozen=True, kw_only=True)
class Format:
    """How clips are written: pixels, 16 or more a side, frames, and the canvas of `puppets.clips.skeleton`."""

    width: int
    height: int
    num_frames: int
    canvas: int | None = None


@contextmanager
def _whole(folder: Path, facts: dict) -> Iterator[Path | None]:
    """A folder to write to, which appears at its place when all is done; None where it is there already."""
    facts_text = json.dumps(facts, sort_keys=True)
    if folder.exists():
        path = folder / FACTS_FILE
        if not path.is_file() or path.read_text(encoding="utf-8") != facts_text:
            raise InputError(f"{folder}: is there already and was made in another way; remove it, or write elsewhere")
        yield None
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        (partial / FACTS_FILE).write_text(facts_text, encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_images(folder: Path, images: Iterable[np.ndarray]) -> None:
    """Write frame_0.png … of (H, W) or (H, W, 3) uint8 RGB."""
    folder.mkdir()
    for i, image in enumerate(images):
        (folder / f"frame_{i}.png").write_bytes(encode_png(image))


def write_truth(folder: Path, truths: list[list[Truth]], form: Format, mask_hands: bool = False) -> None:
    """Write poses/ with the keypoints.npz that extraction would have written, faces/ and truth.npz.

    The latter has (F, P, …) arrays named as the fields of `Truth`, but for the masks.
    """
    write_images(folder / "poses", (skeleton(frame, form.width, form.height, form.canvas) for frame in truths))
    write_images(folder / "faces", (face_masks(frame, mask_hands) for frame in truths))
    names = ("keypoints", "visible", "present", "face_box", "landmarks", "person_box")
    arrays = {name: np.array([[getattr(truth, name) for truth in frame] for frame in truths]) for name in names}
    np.savez_compressed(folder / TRUTH_FILE, **arrays)
    size, found = (form.width, form.height), [people(frame) for frame in truths]
    bodies = [frame.openpose() for frame in found]
    drawn = Drawn(
        np.repeat(np.arange(len(found)), [len(frame) for frame in found]),
        np.concatenate([frame.keypoints for frame in bodies]) / size,
        np.concatenate([frame.scores for frame in bodies]),
        size,
        len(found),
    )
    Recording(None, None, found, size, FPS, drawn=drawn).save(folder / "poses" / KEYPOINTS_FILE)


def _render(clip: Clip, form: Format) -> tuple[list[np.ndarray], list[list[Truth]]]:
    rendered = [clip.render(i, form.width, form.height) for i in range(form.num_frames)]
    return [image for image, _ in rendered], [truths for _, truths in rendered]


def _set(**options) -> dict:
    """The options that are set, so that folders made without them stay what they were."""
    return {name: value for name, value in options.items() if value}


def write_clip(
    folder: Path,
    split: str,
    index: int,
    form: Format,
    kind: str | None = None,
    people: int = 1,
    roams: bool = False,
    hidden: str | None = None,
    mask_hands: bool = False,
) -> Path:
    """Write a clip as images/, poses/, faces/ and truth.npz; nothing where that was done before.

    With `hidden`, one of `puppets.hiding.WAYS`, also photos/: each frame's picture with the face hidden. With
    `mask_hands` the masks in faces/ show the hands too.

    Raises:
        InputError: the folder is there and was made in another way.
        ValueError: as `make_clip`.
    """
    facts = {"split": split, "index": index, "kind": kind, "people": people, **asdict(form)}
    facts |= _set(roams=roams, hidden=hidden, mask_hands=mask_hands)
    with _whole(folder, facts) as partial:
        if partial is not None:
            clip = make_clip(split, index, kind, people, roams)
            images, truths = _render(clip, form)
            write_images(partial / "images", images)
            if hidden:
                photos = (hide(clip, i, form.width, form.height, hidden) for i in range(form.num_frames))
                write_images(partial / "photos", photos)
            write_truth(partial, truths, form, mask_hands)
    return folder


def write_clip_list(root: Path, bucket: str) -> Path:
    """List all clips of a bucket (`rec` or `vec`) in the text file that training reads, a full path a line."""
    folders = sorted(path for path in (root / bucket).iterdir() if path.name.isdigit())
    path = root / BUCKETS[bucket]
    path.write_text("".join(f"{folder.resolve()}\n" for folder in folders), encoding="utf-8")
    return path


def photo_moment(clip: Clip) -> float:
    """When a case's photo is taken, in frames: some time before the clip, and between two of any period's frames."""
    return -round(PHOTO_MOMENT * clip.actors[0][1].period) - 0.5


def write_case(folder: Path, index: int, form: Format, kind: str = "same", roams: bool = False) -> Path:
    """Write a held-out case: reference.png, poses/, faces/, driver/, truth/ and truth.npz.

    `same`: the photo is another moment of the driving video. `cross`: the photo shows another character on another
    stage, and the ground truth is that character doing what the driver does; skeletons and masks are the truth's.
    `hidden`: as `same`, but the photo hides the face, in each of `puppets.hiding.WAYS` in turn, and face.png shows it.

    Raises:
        InputError: the folder is there and was made in another way.
        ValueError: another kind.
    """
    if kind not in CASE_KINDS:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(CASE_KINDS)}")
    with _whole(folder, {"index": index, "kind": kind, **_set(roams=roams), **asdict(form)}) as partial:
        if partial is not None:
            photo = driver = truth = make_clip("held_out", index, roams=roams)
            if kind == "cross":
                driver = make_clip("held_out", DRIVERS + index, roams=roams)
                truth = photo.moved_like(driver)
            moment, size = photo_moment(photo), (form.width, form.height)
            reference, _ = photo.render(moment, *size)
            if kind == "hidden":
                (partial / "face.png").write_bytes(encode_png(reference))
                reference = hide(photo, moment, *size, WAYS[index % len(WAYS)])
            (partial / "reference.png").write_bytes(encode_png(reference))
            images, truths = _render(truth, form)
            write_images(partial / "truth", images)
            write_images(partial / "driver", _render(driver, form)[0])
            write_truth(partial, truths, form)
    return folder
