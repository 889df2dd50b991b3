import itertools
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from animation.errors import InputError
from animation.media.video import FolderFrames, VideoFrames, read_ahead

RATE = 10


def pictures(count=12, width=48, height=32):
    """Frames that tell their number by their grey level, with a white top left corner."""
    frames = np.repeat((10 + 15 * np.arange(count, dtype=np.uint8))[:, None, None, None], 3, axis=3)
    frames = np.ascontiguousarray(np.broadcast_to(frames, (count, height, width, 3)))
    frames[:, :8, :8] = 255
    return frames


def write_video(path, frames, times=None, lossless=False, audio=False):
    """Write frames at 10 a second, or at the given tenths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.options = {"qp": "0"} if lossless else {"crf": "5", "g": "4"}
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = (number if times is None else times[number]), Fraction(1, RATE)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def numbers(frames):
    """Which frames of `pictures` these are, as a video's compression allows."""
    return [round((float(frame[16:, 16:].mean()) - 10) / 15) for frame in frames]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "driver.mp4", pictures(), audio=True)


@pytest.fixture
def folder(tmp_path):
    for number, frame in enumerate(pictures()):
        Image.fromarray(frame).save(tmp_path / f"frame_{number}.png")
    return tmp_path


PARTS = [
    ({}, list(range(12)), 10),
    ({"start": 0.3}, list(range(3, 12)), 10),
    ({"end": 0.5}, list(range(5)), 10),
    ({"start": 0.65, "end": 0.95}, [7, 8, 9], 10),
    ({"stride": 5}, [0, 5, 10], 2),
    ({"start": 0.2, "stride": 4}, [2, 6, 10], 2.5),
]


@pytest.mark.parametrize(("part", "expected", "fps"), PARTS)
def test_parts_of_a_video(video, part, expected, fps):
    frames = VideoFrames(video, **part)
    assert numbers(frames) == expected
    assert numbers(frames) == expected  # again
    assert (frames.size, frames.fps) == ((48, 32), pytest.approx(fps))
    assert abs(frames.estimated_length - len(expected)) <= 1


@pytest.mark.parametrize(("part", "expected", "fps"), PARTS)
def test_parts_of_a_folder(folder, part, expected, fps):
    frames = FolderFrames(folder, fps=RATE, **part)
    assert numbers(frames) == expected
    assert (frames.size, frames.fps, frames.estimated_length) == ((48, 32), pytest.approx(fps), len(expected))


def test_rates(video):
    assert numbers(VideoFrames(video, fps=5)) == [0, 2, 4, 6, 8, 10]
    assert numbers(VideoFrames(video, fps=20)) == sorted([*range(12)] * 2)
    assert numbers(VideoFrames(video, fps=5, start=0.3)) == [3, 5, 7, 9, 11]
    assert numbers(VideoFrames(video, fps=5, stride=2)) == [0, 4, 8]


def test_a_variable_rate_is_made_even(tmp_path):
    path = write_video(tmp_path / "v.mkv", pictures(4), times=[0, 1, 5, 6])
    assert numbers(VideoFrames(path)) == [0, 1, 2, 3]
    assert numbers(VideoFrames(path, fps=RATE))[:7] == [0, 1, 1, 1, 1, 2, 3]


def test_lossless_video_is_the_frames(tmp_path):
    path = write_video(tmp_path / "v.mkv", pictures(), lossless=True)
    np.testing.assert_array_equal(np.stack(list(VideoFrames(path))), pictures())


@pytest.mark.parametrize(
    ("matrix", "corner"), [((0, 1, -1, 0), (0, -1)), ((0, -1, 1, 0), (-1, 0)), ((-1, 0, 0, -1), (-1, -1))]
)
def test_rotation_metadata_is_honoured(tmp_path, video, matrix, corner):
    """A QuickTime matrix in the track header turns the picture: (0 1 −1 0) is a phone's quarter turn clockwise."""
    data = bytearray(video.read_bytes())
    place = data.find(b"tkhd") + 4 + 40
    one, none = (65536).to_bytes(4, "big", signed=True), bytes(4)
    assert data[place : place + 4] == one
    cells = [(value * 65536).to_bytes(4, "big", signed=True) for value in matrix]
    data[place : place + 32] = b"".join([cells[0], cells[1], none, cells[2], cells[3], none, none, none])
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    frames = VideoFrames(turned)
    assert frames.size == ((32, 48) if matrix[0] == 0 else (48, 32))
    frame = next(iter(frames))
    assert frame.shape == (frames.size[1], frames.size[0], 3)
    corners = {(y, x): int(frame[y, x, 0]) for y, x in itertools.product((0, -1), repeat=2)}
    assert max(corners, key=corners.get) == corner


def test_bad_videos(tmp_path, video):
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("not a video at all")
    empty.touch()
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    cases = [
        (tmp_path / "none.mp4", {}, "no such video"),
        (tmp_path, {}, "no such video"),
        (text, {}, "not a readable video"),
        (empty, {}, "not a readable video"),
        (sound, {}, "no video stream in it, only audio"),
        (video, {"start": 60}, "no frame between 60 s and its end; it lasts 1.2"),
        (video, {"start": -1}, "--start -1"),
        (video, {"start": float("nan")}, "--start nan"),
        (video, {"start": 2, "end": 1}, "--end 1 is not after --start 2"),
        (video, {"stride": 0}, "--stride 0"),
        (video, {"fps": 0}, "--fps 0"),
        (video, {"fps": 1e9}, "--fps 1000000000"),
        (video, {"start": 1e12}, r"--start 1000000000000\.0 is not a time"),
        (video, {"end": 4.7e11}, "at most 86400"),
    ]
    for path, part, message in cases:
        with pytest.raises(InputError, match=message):
            VideoFrames(path, **part)


def test_a_file_that_breaks_off_is_told(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    path = write_video(tmp_path / "whole.mkv", frames)
    assert len(list(VideoFrames(path))) == 30
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"broken off at 1\.\d0 s of 3\.00 s"):
        list(VideoFrames(cut))
    assert len(list(VideoFrames(cut, end=1))) == 10


def test_a_hole_in_the_times_is_told(tmp_path, caplog):
    path = write_video(tmp_path / "v.mkv", pictures(8), times=[0, 1, 2, 3, 14, 15, 16, 17])
    assert len(list(VideoFrames(path))) == 8
    assert "no frames between 0.30 and 1.40 s" in caplog.text


def test_a_file_whose_times_begin_later(tmp_path):
    path = write_video(tmp_path / "v.mkv", pictures(), times=[50 + k for k in range(12)])
    frames = VideoFrames(path, start=0.1)
    assert numbers(frames) == list(range(1, 12))
    assert frames.estimated_length == 11
    assert numbers(VideoFrames(path, start=0.3, end=0.35)) == [3]


def test_frames_of_several_sizes(folder, caplog):
    Image.new("RGB", (20, 20)).save(folder / "frame_12.png")
    caplog.set_level("INFO", "animation")
    FolderFrames(folder, end=0.3)
    assert "several sizes" not in caplog.text
    frames = FolderFrames(folder)
    assert frames.size == (48, 32)
    assert [frame.shape[1::-1] for frame in frames][-2:] == [(48, 32), (20, 20)]
    assert "frames of several sizes (20×20, 48×32)" in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "mkv"])
def test_a_damaged_file_with_a_start_names_the_file(tmp_path, suffix):
    """Whatever is wrong is one line, where frames are looked up as well as where they are read."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (20, 32, 32, 3), np.uint8)
    whole = write_video(tmp_path / f"whole.{'mkv' if suffix == 'webm' else suffix}", frames).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    for number in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 30):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: len(whole) // 2] if number % 4 == 0 else damaged)
        try:
            list(VideoFrames(path, start=1.0))
        except InputError as error:
            assert str(path) in str(error)


def test_a_failing_seek_names_the_file(video, monkeypatch):
    opened = VideoFrames(video, start=0.5)
    open_container = opened._open

    class Unseekable:
        def __init__(self):
            self.container = open_container()
            self.streams, self.format = self.container.streams, self.container.format

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def seek(self, *args, **options):
            raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(opened, "_open", Unseekable)
    with pytest.raises(InputError, match=r"driver\.mp4: damaged at .*Operation not permitted"):
        list(opened)


def test_read_ahead_keeps_order_raises_and_stops():
    assert list(read_ahead(range(100), buffer=3)) == list(range(100))

    def failing():
        yield 1
        raise InputError("broken")

    found = read_ahead(failing())
    assert next(found) == 1
    with pytest.raises(InputError, match="broken"):
        next(found)
    before = threading.active_count()
    endless = read_ahead(itertools.count(), buffer=2)
    next(endless)
    endless.close()
    for thread in threading.enumerate()[before:]:
        thread.join(2)
    assert threading.active_count() <= before
