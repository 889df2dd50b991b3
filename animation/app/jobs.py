"""Clips on disk: each in a folder of a random name that holds its inputs, its state, and its results.

clips/NAME/job.json          what was asked for, and how it stands
clips/NAME/photo.png         and driver.mp4, or driver/ with pictures: the uploads under names of ours
clips/NAME/face_photo.png    where another picture of the face was given
clips/NAME/log.txt           what the run printed
clips/NAME/result/           the output folder of animate.py
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from animation.app.limits import check_picture, check_video, unpack_pictures
from animation.app.settings import Limits, chosen_settings
from animation.clip.plan import num_frames
from animation.clip.settings import INTERMEDIATE_FOLDER, ClipInputs, ClipSettings
from animation.errors import InputError
from animation.files import read_json, write_json
from animation.media.video import VideoFrames

logger = logging.getLogger(__name__)

WAITING, RUNNING, STOPPED, FAILED, DONE = "waiting", "running", "stopped", "failed", "done"
NAME = re.compile(r"[0-9a-f]{24}")
JOB_FILE, LOG_FILE, DRIVER_FOLDER = "job.json", "log.txt", "driver"
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp")  # that a copy may keep; others become .mp4
PICTURES = {"photo": "the photo", "face_photo": "the picture of the face"}  # uploads, and their names in messages


@dataclass(frozen=True)
class Uploads:
    """Paths of what a visitor gave; None where nothing was given.

    Attributes:
        photo: a picture.
        driver: a video, or a zip of pictures.
        face_photo: another picture of the same person, whose face is kept.
    """

    photo: str | Path | None
    driver: str | Path | None
    face_photo: str | Path | None = None


@dataclass
class Job:
    """A clip that somebody asked for.

    Attributes:
        folder: its own, of a random name.
        photo, driver: its inputs, by their names in the folder.
        values: what was chosen of a clip's settings, by name.
        face_photo: another picture of the face, by its name in the folder; None: the photo's face is kept.
        state: `WAITING`, `RUNNING`, `STOPPED` (it can go on), `FAILED` or `DONE`.
        error: why it failed, in one line.
        created, changed: seconds since the epoch.
    """

    folder: Path
    photo: str
    driver: str
    values: dict[str, Any]
    face_photo: str | None = None
    state: str = STOPPED
    error: str | None = None
    created: float = field(default_factory=time.time)
    changed: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def result(self) -> Path:
        """The output folder of its run."""
        return self.folder / "result"

    def settings(self, **servers: Any) -> ClipSettings:
        """The settings of its run, unresolved, with what the server adds. Raises InputError."""
        chosen = vars(chosen_settings(self.values)) | servers
        places = {
            "photo": str(self.folder / self.photo),
            "face_photo": str(self.folder / self.face_photo) if self.face_photo else None,
            "video": str(self.folder / self.driver),
            "output": str(self.result),
        }
        return ClipSettings(**(chosen | places | {"side_by_side": True}))

    def set(self, state: str, error: str | None = None) -> None:
        """Change how it stands, and write that down."""
        self.state, self.error, self.changed = state, error, time.time()
        self.write()

    def write(self) -> None:
        """Write it down."""
        content = asdict(self)
        write_json(self.folder / JOB_FILE, {key: value for key, value in content.items() if key != "folder"})

    def tell(self, error: object) -> str:
        """An error in one line: names without the dashes of flags, and without the server's paths."""
        line = re.sub(r"(?<![\w-])--(?=[a-z])", "", str(error).strip().split("\n")[-1])
        return line.replace(f"{self.folder}{os.sep}", "").replace(str(self.folder), "the clip's folder")


class Jobs:
    """All clips on disk.

    Args:
        folder: of their folders; made where missing.
        limits: what an upload may have at most.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Job] = {}
        for path in folder.iterdir():
            if NAME.fullmatch(path.name) and not path.is_symlink():
                self._load(path)

    def _load(self, folder: Path) -> None:
        """Take a clip of an earlier server; what it was at work on has stopped."""
        content = read_json(folder / JOB_FILE)
        try:
            job = Job(folder, **content)
        except TypeError:
            logger.warning(f"{folder}: its {JOB_FILE} cannot be read; it is passed over")
            return
        if job.state in (WAITING, RUNNING):
            job.set(STOPPED)
        self._known[job.name] = job

    def find(self, name: object) -> Job | None:
        """A clip by its name; None where there is none."""
        return self._known.get(name) if isinstance(name, str) else None

    def latest(self, most: int) -> list[Job]:
        """The clips that began last, the last one first."""
        return sorted(self._known.values(), key=lambda job: job.created, reverse=True)[:most]

    def check(self, uploads: Uploads, end: float | None = None) -> dict[str, str]:
        """Check uploads, as far as they are there, and return the pictures' names in a folder. Raises InputError."""
        if uploads.driver is not None and not zipfile.is_zipfile(uploads.driver):
            check_video(Path(uploads.driver), self.limits, end)
        given = {name: path for name in PICTURES if (path := getattr(uploads, name)) is not None}
        return {name: name + check_picture(Path(path), self.limits, PICTURES[name]) for name, path in given.items()}

    def make(self, uploads: Uploads, values: dict[str, Any]) -> Job:
        """Check uploads and choices, and take them into a new folder.

        Args:
            uploads: photo and driver at least.
            values: what was chosen of a clip's settings, by name.

        Raises:
            InputError: something is missing, too large, unreadable, or makes no sense.
        """
        if uploads.photo is None or uploads.driver is None:
            raise InputError(f"there is no {'photo' if uploads.photo is None else 'driver'} yet; give one")
        driver, chosen = Path(uploads.driver), chosen_settings(values)
        pictures, zipped = self.check(uploads, chosen.end), zipfile.is_zipfile(driver)
        folder = self.folder / secrets.token_hex(12)
        folder.mkdir(mode=0o700)
        try:
            kept = driver.suffix.lower() if driver.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
            taken = DRIVER_FOLDER if zipped else f"driver{kept}"
            job = Job(folder, pictures["photo"], taken, values, pictures.get("face_photo"))
            for name, file in pictures.items():
                _take(Path(getattr(uploads, name)), folder / file)
            if zipped:
                unpack_pictures(driver, folder / job.driver, self.limits)
            else:
                _take(driver, folder / job.driver)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job

    def read(self, job: Job, **servers: Any) -> tuple[ClipSettings, ClipInputs]:
        """A clip's resolved settings, and what they read before any network.

        Raises:
            InputError: something makes no sense together, is unreadable, or the clip would be too long.
        """
        try:
            settings = job.settings(**servers).resolve()
            inputs = settings.read_inputs()
            driver = inputs.driver
            if isinstance(driver.frames, VideoFrames) and not driver.frames.estimated_length and settings.loop > 1:
                raise InputError("the video does not say how long it is, so it cannot be repeated; leave loop at 1")
            count = num_frames(settings, inputs)
        except (InputError, OSError) as error:
            raise InputError(job.tell(error)) from None
        if count > self.limits.frames or count / driver.fps > self.limits.seconds + 1:
            most = f"{self.limits.seconds:g} s and {self.limits.frames} frames"
            raise InputError(f"the clip would have {count} frames, {count / driver.fps:.1f} s; at most are {most}")
        return settings, inputs

    def add(self, job: Job) -> None:
        """Take a clip among those that are shown."""
        self._known[job.name] = job

    def again(self, job: Job, **changes: Any) -> Job:
        """The same clip with other choices, in a folder of its own, with the skeletons of the first one."""
        folder = self.folder / secrets.token_hex(12)
        folder.mkdir(mode=0o700)
        new = Job(folder, job.photo, job.driver, job.values | changes, job.face_photo)
        uploads = (job.folder / name for name in (job.photo, job.driver, job.face_photo) if name)
        for source in (*uploads, job.result / INTERMEDIATE_FOLDER):
            target = folder / source.relative_to(job.folder)
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                _take(source, target)
        return new

    def forget(self, job: Job) -> None:
        """Remove a clip with all that it has."""
        self._known.pop(job.name, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def forget_old(self, hours: float) -> int:
        """Remove the clips at which nothing has changed for so many hours, and return how many there were."""
        before = time.time() - 3600 * hours
        old = [
            job for job in list(self._known.values()) if job.changed < before and job.state not in (WAITING, RUNNING)
        ]
        for job in old:
            self.forget(job)
        for path in self.folder.iterdir():  # folders of checks that never became a clip
            with contextlib.suppress(OSError):
                if NAME.fullmatch(path.name) and path.name not in self._known and path.stat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True)
        return len(old)


def _take(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk does not do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
