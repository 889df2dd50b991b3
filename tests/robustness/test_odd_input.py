"""Odd but good files, made here as cameras, phones and editors make them."""

import math
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageSequence

from animation.clip.driver import open_driver
from animation.commands import animate
from animation.errors import InputError
from animation.media.images import FrameFolder, load_photo
from animation.media.video import VideoFrames
from tests import pose_models
from tests.clips import clip_settings, flags_of, frames_of
from tests.test_animate import walk
from tests.test_video import numbers, pictures

WIDTH, HEIGHT, RATE = 48, 32, 10
CORNERS = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [200, 200, 30]]], np.uint8)
UPRIGHT = CORNERS.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)  # a colour in each quarter
STORED = {  # how a picture lies in a file of each EXIF orientation
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}


def shows(image, expected=UPRIGHT, tolerance=12):
    """Whether the quarters of a picture have the expected colours."""
    found, expected = (
        np.asarray(picture).astype(int)[HEIGHT // 4 :: HEIGHT // 2, WIDTH // 4 :: WIDTH // 2]
        for picture in (image, expected)
    )
    return found.shape == expected.shape and np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_ways_to_hold_a_camera(tmp_path, suffix, orientation):
    path = tmp_path / f"photo_0.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    stored.save(path, exif=exif, quality=95, lossless=True)
    assert shows(load_photo(path))
    assert shows(stored) == (orientation == 1)
    if suffix in ("jpg", "png"):
        frames = FrameFolder(tmp_path)
        assert frames.sizes == {(WIDTH, HEIGHT)} and shows(frames[0])


def write_cv(path, image):
    assert cv2.imwrite(str(path), image)


def rgba(image):
    return np.dstack([image, np.full(image.shape[:2], 255, image.dtype)])


def palette(transparent):
    image = Image.fromarray(UPRIGHT).quantize(8)
    if transparent:
        image.info["transparency"] = 7
    return image


BGR16 = UPRIGHT[..., ::-1].astype(np.uint16) * 257
PHOTOS = {
    "PNG of 16 bits a channel": ("a.png", lambda path: write_cv(path, BGR16)),
    "PNG of 16 bits with alpha": ("a.png", lambda path: write_cv(path, rgba(BGR16 | 255))),
    "TIFF of 16 bits a channel": ("a.tif", lambda path: write_cv(path, BGR16)),
    "PNG with a palette": ("a.png", lambda path: palette(False).save(path)),
    "PNG with a palette and transparency": ("a.png", lambda path: palette(True).save(path)),
    "transparent PNG": ("a.png", lambda path: Image.fromarray(rgba(UPRIGHT)).save(path)),
    "CMYK JPEG": ("a.jpg", lambda path: Image.fromarray(UPRIGHT).convert("CMYK").save(path, quality=95)),
    "progressive JPEG": ("a.jpg", lambda path: Image.fromarray(UPRIGHT).save(path, quality=95, progressive=True)),
    "JPEG with an upper-case ending": ("A.JPEG", lambda path: Image.fromarray(UPRIGHT).save(path, quality=95)),
    "WebP": ("a.webp", lambda path: Image.fromarray(UPRIGHT).save(path, lossless=True)),
    "transparent WebP": ("a.webp", lambda path: Image.fromarray(rgba(UPRIGHT)).save(path, lossless=True)),
    "AVIF": ("a.avif", lambda path: Image.fromarray(UPRIGHT).save(path, quality=95)),
    "a JPEG that is called PNG": ("a.png", lambda path: Image.fromarray(UPRIGHT).save(path, "JPEG", quality=95)),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photos(tmp_path, name):
    file, write = PHOTOS[name]
    write(tmp_path / file)
    assert shows(load_photo(tmp_path / file))


def test_other_photos_are_told_apart(tmp_path):
    """The control of the comparison above."""
    Image.fromarray(UPRIGHT[..., ::-1].copy()).save(tmp_path / "a.png")
    assert not shows(load_photo(tmp_path / "a.png"))


def encode(path, frames, codec, times=None, unit=RATE, options=None, pix_fmt="yuv420p", sound=None, movflags=""):
    """Write frames, at times that count in 1/`unit` of a second."""
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=unit, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], Fraction(1, unit)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_pillow(path, frames, **options):
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=1000 // RATE, **options)
    return path


def matroska(path):
    return encode(path, pictures(), "libx264", times=[0, 1, 2, 5, 6, 7, 8, 9, 13, 14, 15, 16], options={"crf": "5"})


DRIVERS = {
    "GIF": lambda p: write_pillow(p / "a.gif", pictures()),
    "animated WebP": lambda p: write_pillow(p / "a.webp", pictures(), lossless=True),
    "animated PNG": lambda p: write_pillow(p / "a.png", pictures()),
    "WebM with VP9": lambda p: encode(p / "a.webm", pictures(), "libvpx-vp9", options={"crf": "10"}),
    "WebM with VP8": lambda p: encode(p / "a.webm", pictures(), "libvpx", options={"crf": "10", "b": "1M"}),
    "AVI": lambda p: encode(p / "a.avi", pictures(), "mpeg4", options={"qscale": "2"}),
    "MPEG transport stream": lambda p: encode(p / "a.ts", pictures(), "libx264", options={"crf": "5"}),
    "B-frames": lambda p: encode(
        p / "a.mp4", pictures(), "libx264", options={"crf": "5", "bf": "4", "b_strategy": "0"}
    ),
    "B-frames with negative times": lambda p: encode(
        p / "a.mov",
        pictures(),
        "libx264",
        options={"crf": "5", "bf": "4", "b_strategy": "0"},
        movflags="negative_cts_offsets",
    ),
    "fragments": lambda p: encode(
        p / "a.mp4", pictures(), "libx264", options={"crf": "5"}, movflags="frag_keyframe+empty_moov"
    ),
    "10 bits a channel": lambda p: encode(
        p / "a.mkv", pictures(), "libx264", options={"crf": "5"}, pix_fmt="yuv420p10le"
    ),
    "lossless RGB": lambda p: encode(p / "a.mkv", pictures(), "ffv1", pix_fmt="bgr0"),
    "odd sizes": lambda p: encode(p / "a.webm", pictures(width=47, height=33), "libvpx-vp9", options={"crf": "10"}),
    "odd sizes of a GIF": lambda p: write_pillow(p / "a.gif", pictures(width=47, height=33)),
    "a name of another kind": lambda p: encode(p / "a.mp4", pictures(), "libx264").rename(p / "a.dat"),
    "a name with a colon": lambda p: encode(p / "a.mp4", pictures(), "libx264").rename(p / "12:30.mp4"),
    "a name like a pattern": lambda p: encode(p / "a.mp4", pictures(), "libx264").rename(p / "%03d [a]*?.mp4"),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_drivers(tmp_path, name):
    driver = open_driver(DRIVERS[name](tmp_path))
    assert driver.kind == "video" and driver.fps == pytest.approx(RATE)
    assert numbers(driver.frames) == list(range(12))
    assert driver.frames.size == ((47, 33) if "odd" in name else (WIDTH, HEIGHT))
    part = open_driver(driver.path, start=0.5, end=0.9)
    assert numbers(part.frames) == [5, 6, 7, 8]


def test_an_animated_webp_is_converted_once(tmp_path, monkeypatch):
    converted, walk_through = [], ImageSequence.Iterator
    monkeypatch.setattr(ImageSequence, "Iterator", lambda image: converted.append(image) or walk_through(image))
    for count in (12, 5):
        driver = open_driver(write_pillow(tmp_path / "a.webp", pictures(count), lossless=True))
        assert numbers(driver.frames) == list(range(count))
    assert len(converted) == 2  # a changed file is another


@pytest.mark.parametrize(("width", "height"), [(WIDTH, 16384), (16000, 16000)])
def test_an_animated_webp_that_says_to_be_huge(tmp_path, monkeypatch, width, height):
    path = write_pillow(tmp_path / "a.webp", pictures(), lossless=True)
    assert VideoFrames(path).size == (WIDTH, HEIGHT)
    content = bytearray(path.read_bytes())
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    path.write_bytes(content)
    monkeypatch.setattr(Image, "open", None)  # nothing of it is decoded
    with pytest.raises(InputError, match=rf"a\.webp: not a readable video \({width}×{height} pixels"):
        VideoFrames(path)


def test_a_variable_frame_rate_is_taken_evenly(tmp_path):
    driver = open_driver(matroska(tmp_path / "a.mkv"))
    assert not VideoFrames(driver.path).has_even_rate()
    shown = numbers(driver.frames)
    assert shown == sorted(shown) and set(shown) == set(range(12))
    assert len(shown) / driver.fps == pytest.approx(1.7, abs=0.2)


@pytest.mark.parametrize(("rate", "taken"), [(240, 240), (480, 60)])
def test_slow_motion(tmp_path, rate, taken):
    path = encode(tmp_path / "a.mp4", pictures(), "libx264", unit=rate)
    driver = open_driver(path)
    assert driver.fps == pytest.approx(taken)
    assert len(list(driver.frames)) == math.ceil(12 * taken / rate)


def test_one_frame(tmp_path):
    for path in (
        encode(tmp_path / "a.mp4", pictures(1), "libx264"),
        write_pillow(tmp_path / "a.gif", pictures(1)),
        write_pillow(tmp_path / "a.webp", pictures(1)),
    ):
        assert numbers(open_driver(path).frames) == [0]


@pytest.fixture(scope="module")
def dwpose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dwpose")
    pose_models.write_models(folder)
    return str(folder)


def photo(path, size=(64, 64)):
    Image.fromarray(np.resize(UPRIGHT, (*size[::-1], 3))).save(path)


def upright(frames):
    """A portrait of frames in landscape: their middle."""
    return frames[:, :, 70:250]


RUNS = {  # the names of the photo and the driver, relative to the working directory; who writes the driver; the canvas
    "a portrait driver for a landscape photo": ("a.png", "a.gif", lambda p: write_pillow(p, upright(WALK)), "128x64"),
    "a landscape driver for a portrait photo": ("a.png", "a.webp", lambda p: write_pillow(p, WALK), "64x128"),
    "leading dashes, spaces and unicode": (
        "-мой 写真.png",
        "--d ä☃.mp4",
        lambda p: encode(p, WALK, "libx264"),
        "64x64",
    ),
}
WALK = np.stack(walk(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_whole_runs_from_another_folder_that_stays_as_it_is(tmp_path, checkpoint, case, dwpose, monkeypatch, name):
    """By relative paths from a folder that may only be read, into one beside it."""
    photo_name, driver_name, write, size = RUNS[name]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    width, height = map(int, size.split("x"))
    photo(inputs / photo_name, (width, height))
    write(inputs / driver_name)
    before = {path: path.stat().st_mtime_ns for path in inputs.iterdir()}
    inputs.chmod(0o555)
    monkeypatch.chdir(inputs)
    settings = clip_settings(
        tmp_path,
        checkpoint,
        case,
        photo=photo_name,
        video=driver_name,
        output="../out",
        size=size,
        dwpose_models=dwpose,
    )
    monkeypatch.setattr(sys, "argv", ["animate.py", *flags_of(settings)])
    try:
        animate.main()
        assert frames_of(tmp_path / "out").shape == (len(WALK), height, width, 3)
        assert before == {path: path.stat().st_mtime_ns for path in inputs.iterdir()}
        assert os.access(tmp_path / "out" / "animation.mp4", os.R_OK) and Path("../out/run.json").is_file()
    finally:
        inputs.chmod(0o755)
