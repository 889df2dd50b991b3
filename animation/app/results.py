"""What a clip has to show: its skeletons as soon as they are there, its results, and a poster."""

import logging
import threading
import zipfile
from pathlib import Path

from PIL import Image

from animation.app.jobs import Job
from animation.clip.request import RUN_FILE
from animation.clip.results import CONTACT_SHEET, CSIM_PLOT, SIDE_BY_SIDE
from animation.clip.settings import INTERMEDIATE_FOLDER, PHOTO_FILE, SKELETONS_FOLDER
from animation.clip.skeletons import MADE_FILE
from animation.files import read_json, write_whole
from animation.media.images import FrameFolder, load_photo
from animation.media.panels import panel
from animation.media.video import FOLDER_FPS
from animation.media.writing import FRAMES_FOLDER, write_mp4
from animation.skeletons.preview import skeleton_panels
from DWPose.recording import KEYPOINTS_FILE, load_recording

logger = logging.getLogger(__name__)

CLIP_FILE, FRAMES_ZIP, SKELETONS_FILE = "animation.mp4", "frames.zip", "skeletons.mp4"
POSTERS = "photo-small.jpg", "clip-small.jpg"  # before there are frames, and then: a browser keeps what it saw
POSTER_SIDE = 360  # pixels
_making = threading.Lock()


def skeletons(job: Job) -> Path | None:
    """The video of a clip's skeletons, made as soon as they are there; None before, and while another one is made."""
    target, folder = job.folder / SKELETONS_FILE, job.result / INTERMEDIATE_FOLDER / SKELETONS_FOLDER
    made = folder / MADE_FILE
    if not made.is_file():
        return None
    if not target.is_file() or target.stat().st_mtime < made.stat().st_mtime:
        if not _making.acquire(blocking=False):
            return None
        try:
            write_whole(target, lambda partial: _write_skeletons(partial, job, folder))
        finally:
            _making.release()
    return target


def _write_skeletons(target: Path, job: Job, folder: Path) -> None:
    """Draw the skeletons as large as they are shown, where their key points are known."""
    path = folder / KEYPOINTS_FILE
    recording = load_recording(path) if path.is_file() else None
    settings = job.settings().resolve()
    if recording is not None and recording.drawn is not None:
        frames = skeleton_panels(recording.drawn, settings.confidence, settings.canvas)
    else:
        frames = map(panel, FrameFolder(folder))
    write_mp4(target, frames, recording.fps if recording is not None else settings.fps or FOLDER_FPS)


def finish(job: Job) -> None:
    """Pack the frames of a clip that is done, and make its poster."""
    frames = sorted((job.result / FRAMES_FOLDER).glob("frame_*.png"), key=lambda path: int(path.stem[6:]))

    def pack(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w") as archive:  # PNG cannot be made smaller
            for path in frames:
                archive.write(path, path.name)

    write_whole(job.folder / FRAMES_ZIP, pack)
    poster(job)


def poster(job: Job) -> Path:
    """A small picture of a clip: its middle frame, or its photo where there is none yet."""
    frames = sorted((job.result / FRAMES_FOLDER).glob("frame_*.png"), key=lambda path: int(path.stem[6:]))
    canvas = job.result / INTERMEDIATE_FOLDER / PHOTO_FILE
    source = frames[len(frames) // 2] if frames else canvas if canvas.is_file() else job.folder / job.photo
    target = job.folder / POSTERS[bool(frames)]
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        image = load_photo(source)
        scale = POSTER_SIDE / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        shown = image.resize(size, Image.Resampling.BICUBIC)
        write_whole(target, lambda partial: shown.save(partial, quality=88))
    return target


def found(job: Job, name: str) -> str | None:
    """The path of a result that is there."""
    path = job.result / name
    return str(path) if path.is_file() else None


def files(job: Job) -> list[str]:
    """All files of a clip that is done, to take away."""
    names = (CLIP_FILE, SIDE_BY_SIDE, CONTACT_SHEET, CSIM_PLOT, RUN_FILE)
    paths = [*(job.result / name for name in names), job.folder / FRAMES_ZIP, job.folder / SKELETONS_FILE]
    return [str(path) for path in paths if path.is_file()]


def figures(job: Job) -> str:
    """What run.json says of a clip, in a few words."""
    run = read_json(job.result / RUN_FILE)
    seconds = sum(run.get("seconds", {}).values())
    parts = [f"{run.get('num_frames', '?')} frames", f"made in {seconds:.0f} s"]
    likeness = (run.get("csim") or {}).get("mean")
    if likeness is not None:
        parts.append(f"likeness of the face {likeness:.2f}")
    return " · ".join(parts)
