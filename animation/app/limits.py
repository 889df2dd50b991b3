"""Uploads checked before anything in them is decoded: bytes, pixels, seconds, frames, and what a zip would become."""

import io
import itertools
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import av
from PIL import Image

from animation.app.settings import Limits
from animation.errors import InputError
from animation.media.containers import animated_webp_size, open_container, webp_durations
from animation.media.images import FORMATS, IMAGE_SUFFIXES, frame_number

MOST_MEMBERS = 20_000  # of a zip, before its list is looked at


def check_bytes(path: Path, limits: Limits) -> None:
    """Raise InputError for a file that is empty or has too many bytes."""
    size = path.stat().st_size
    if size == 0:
        raise InputError("the file is empty; give another")
    if size > limits.bytes:
        raise InputError(f"the file has {size / 2**20:.0f} MB; give one of at most {limits.bytes >> 20} MB")


def check_picture(source: Path | io.BytesIO, limits: Limits, name: str = "the photo") -> str:
    """Check a picture by its header, and return the ending that its format has.

    Raises:
        InputError: not a picture, of a format that is not taken, or with too many pixels.
    """
    if isinstance(source, Path):
        check_bytes(source, limits)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(source, formats=FORMATS)
        with image:
            width, height, kind = *image.size, image.format
    except Exception as error:  # of a damaged file Pillow raises almost anything
        if isinstance(error, Image.DecompressionBombError):
            raise InputError(f"{name} has too many pixels; give one of at most {_megapixels(limits)}") from None
        raise InputError(f"{name} is not a picture that can be read; give a PNG or JPEG file") from None
    if width * height > limits.pixels:
        raise InputError(f"{name} has {width}×{height} pixels; give one of at most {_megapixels(limits)}")
    return {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")


def check_video(path: Path, limits: Limits, end: float | None = None) -> None:
    """Check a video by its container and its packets, of which none is decoded.

    Args:
        end: where a visitor stops it, seconds; what comes later counts in bytes alone, unless it is an animated WebP,
            of which everything is read.

    Raises:
        InputError: not a video, without pictures, or too large, too long, or of too many frames.
    """
    check_bytes(path, limits)
    try:
        if (size := animated_webp_size(path)) is not None:
            _check_frame(*size, limits)
            _check_length(itertools.accumulate(duration / 1000 for duration in webp_durations(path)), limits)
            return
        with open_container(path) as container:
            if container.format.name.endswith("_pipe"):  # FFmpeg's name for pictures
                raise InputError("the driver is a single picture; give a video")
            if not container.streams.video:
                raise InputError("there are no pictures in the file, only sound; give a video")
            stream = container.streams.video[0]
            _check_frame(stream.width, stream.height, limits)
            packets = (packet.pts for packet in container.demux(stream) if packet.size)
            _check_length((None if pts is None else float(pts * stream.time_base) for pts in packets), limits, end)
    except InputError:
        raise
    except (av.error.FFmpegError, OSError, ValueError):
        raise InputError("the video cannot be read; give a video file such as MP4") from None


def _check_frame(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise InputError(f"the video's frames have {width}×{height} pixels; give at most {_megapixels(limits)}")


def _check_length(times: Iterable[float | None], limits: Limits, end: float | None = None) -> None:
    """Count the frames by their times, seconds: what a header says of the length may be missing or wrong."""
    frames, first, last = 0, None, 0.0
    for time in times:
        if time is not None:
            first = time if first is None else min(first, time)
            if end is not None and time - first > end:
                continue
            last = max(last, time - first)
        frames += 1
        if frames > limits.frames:
            raise InputError(f"the video has more than {limits.frames} frames; choose a shorter part of it")
        if last > limits.seconds:
            raise InputError(f"the video is longer than {limits.seconds:g} s; choose a shorter part of it")


def unpack_pictures(path: Path, folder: Path, limits: Limits) -> int:
    """Unpack the numbered pictures of a zip as frame_0.png … in a folder of that alone; names are never used as paths.

    Everything is checked by the zip's list first, and each picture by its header before it is written.

    Returns:
        How many there are.

    Raises:
        InputError: not a zip, a name that leads out of it, too much in it, or anything but numbered pictures.
    """
    check_bytes(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _numbered(archive.infolist(), limits)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            left = 4 * limits.bytes
            for place, member in enumerate(members):
                with archive.open(member) as packed:
                    content = packed.read(min(left, member.file_size) + 1)  # the list may lie
                left -= len(content)
                if left < 0 or len(content) > member.file_size:
                    raise InputError(f"the zip unpacks to more than {4 * limits.bytes >> 20} MB; give fewer pictures")
                suffix = check_picture(io.BytesIO(content), limits, f"picture {place} of the zip")
                if suffix not in IMAGE_SUFFIXES:
                    raise InputError(f"picture {place} of the zip is neither PNG nor JPEG; give those")
                (folder / f"frame_{place}{suffix}").write_bytes(content)
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError):
        raise InputError("the zip cannot be read; pack the pictures again, without a password") from None
    return len(members)


def _numbered(members: list[zipfile.ZipInfo], limits: Limits) -> list[zipfile.ZipInfo]:
    """The pictures of a zip's list in the order of their numbers. Raises InputError as `unpack_pictures`."""
    if len(members) > MOST_MEMBERS:
        raise InputError(f"the zip holds more than {MOST_MEMBERS} files; give at most {limits.frames} pictures")
    numbers: dict[int, zipfile.ZipInfo] = {}
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in member.filename:
            raise InputError("the zip holds a name that leads out of it; pack the pictures again, without folders")
        if member.is_dir() or name.name.startswith(".") or "__MACOSX" in name.parts:
            continue
        number = frame_number(Path(name.name))
        if name.suffix.lower() not in IMAGE_SUFFIXES or number is None:
            raise InputError("the zip holds more than numbered pictures such as frame_0.png; pack those alone")
        if number in numbers:
            raise InputError(f"two pictures of the zip have the number {number}; keep one of them")
        numbers[number] = member
    if not numbers:
        raise InputError("the zip holds no picture; pack numbered pictures such as frame_0.png")
    if len(numbers) > limits.frames:
        raise InputError(f"the zip holds {len(numbers)} pictures; give at most {limits.frames}")
    if sum(member.file_size for member in numbers.values()) > 4 * limits.bytes:
        raise InputError(f"the zip unpacks to more than {4 * limits.bytes >> 20} MB; give fewer pictures")
    return [numbers[number] for number in sorted(numbers)]


def _megapixels(limits: Limits) -> str:
    return f"{limits.pixels / 1e6:g} megapixels"
