"""Uploads are checked before anything in them is decoded."""

import io
import struct
import zipfile
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from animation.app.limits import check_picture, check_video, unpack_pictures
from animation.app.settings import Limits
from animation.errors import InputError
from animation.media.containers import webp_durations
from animation.media.writing import write_mp4

LIMITS = Limits(bytes=1 << 20, pixels=100_000, seconds=3, frames=40)


def png(width=8, height=8):
    """A small PNG file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def png_header(width, height):
    """A PNG that says how large it is, and has nothing of it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_video(path, frames=10, fps=10, size=(32, 32)):
    pictures = (np.full((size[1], size[0], 3), 20 * k % 250, np.uint8) for k in range(frames))
    write_mp4(path, pictures, fps)
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_passes_and_keeps_its_ending(tmp_path, kind):
    path = tmp_path / "no-ending"
    Image.new("RGB", (100, 100)).save(path, kind)
    assert check_picture(path, LIMITS) == {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}[kind]


@pytest.mark.parametrize(
    "content", [b"just words", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a picture that can be read"):
        check_picture(path, LIMITS)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, side):
    path = tmp_path / "photo.png"
    path.write_bytes(png_header(side, side))  # decoding it would fail: there is nothing
    with pytest.raises(InputError, match=r"pixels; give one of at most 0\.1 megapixels"):
        check_picture(path, LIMITS)


def test_too_many_bytes_and_none_are_refused(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png() + bytes(LIMITS.bytes))
    with pytest.raises(InputError, match="at most 1 MB"):
        check_picture(path, LIMITS)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        check_picture(path, LIMITS)


def test_a_video_passes(tmp_path):
    check_video(write_video(tmp_path / "driver.mp4"), LIMITS)


@pytest.mark.parametrize(
    ("video", "problem"),
    [
        ({"frames": 35, "fps": 10}, "longer than 3 s"),
        ({"frames": 50, "fps": 100}, "more than 40 frames"),
        ({"size": (400, 400)}, "400×400 pixels"),
    ],
)
def test_a_video_beyond_a_limit_is_refused(tmp_path, video, problem):
    with pytest.raises(InputError, match=problem):
        check_video(write_video(tmp_path / "driver.mp4", **video), LIMITS)


def write_webp(path, frames=10, milliseconds=100, size=(32, 32)):
    pictures = [Image.new("RGB", size, (20 * k % 250, 0, 0)) for k in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, lossless=True)
    return path


@pytest.mark.parametrize(
    ("video", "problem"),
    [
        ({"frames": 33}, "longer than 3 s"),
        ({"frames": 50, "milliseconds": 10}, "more than 40 frames"),
        ({"size": (400, 400)}, "400×400 pixels"),
    ],
)
def test_an_animated_webp_is_a_video_within_the_same_limits(tmp_path, video, problem, monkeypatch):
    check_video(write_webp(tmp_path / "driver.webp"), LIMITS)
    assert list(webp_durations(tmp_path / "driver.webp")) == [100] * 10
    write_webp(tmp_path / "driver.webp", **video)
    monkeypatch.setattr(Image, "open", None)  # nothing of it is decoded
    with pytest.raises(InputError, match=problem):
        check_video(tmp_path / "driver.webp", LIMITS)


def test_what_comes_after_the_chosen_end_does_not_count(tmp_path):
    path = write_video(tmp_path / "driver.mp4", frames=60, fps=10)
    check_video(path, LIMITS, end=2.0)
    with pytest.raises(InputError, match="longer"):
        check_video(path, LIMITS, end=5.0)


def test_nothing_of_a_video_is_decoded(tmp_path):
    path = write_video(tmp_path / "driver.mp4")
    content = bytearray(path.read_bytes())
    place = content.index(b"mdat") + 4
    content[place : place + 200] = bytes(200)  # its pictures are damaged: a decoder would complain
    path.write_bytes(content)
    check_video(path, LIMITS)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="only sound"):
        check_video(path, LIMITS)


@pytest.mark.parametrize("name", ["driver.m3u8", "driver.mp4"])
def test_a_playlist_is_not_followed(tmp_path, name):
    """FFmpeg would open the files and addresses that a playlist names."""
    write_video(tmp_path / "secret.mp4")
    path = tmp_path / name
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="cannot be read"):
        check_video(path, LIMITS)
    path.write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n")
    with pytest.raises(InputError, match="cannot be read"):
        check_video(path, LIMITS)


def test_a_zip_becomes_numbered_pictures_in_their_order(tmp_path):
    members = [(f"poses/frame_{number}.png", png(8 + number, 8)) for number in (10, 9, 2)]
    members += [("__MACOSX/._frame_1.png", b"x"), ("poses/.DS_Store", b"x")]
    folder = tmp_path / "driver"
    assert unpack_pictures(write_zip(tmp_path / "a.zip", members), folder, LIMITS) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["frame_0.png", "frame_1.png", "frame_2.png"]
    assert [Image.open(folder / f"frame_{place}.png").width for place in range(3)] == [10, 17, 18]


@pytest.mark.parametrize(
    "name",
    [
        "../frame_0.png",
        "a/../../frame_0.png",
        "/etc/frame_0.png",
        "..\\frame_0.png",
        "C:\\frame_0.png",
        "C:frame_0.png",
    ],
)
def test_a_name_that_leads_out_is_refused_and_nothing_written(tmp_path, name):
    folder = tmp_path / "in" / "driver"
    with pytest.raises(InputError, match="leads out of it"):
        unpack_pictures(write_zip(tmp_path / "a.zip", [(name, png())]), folder, LIMITS)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("frame_0.png", b"words")], "picture 0 of the zip is not a picture"),
        ([("frame_0.png", png_header(10_000, 10_000))], "10000×10000"),
        ([("frame_0.png", png()), ("run.sh", b"")], "more than numbered pictures"),
        ([("face.png", png())], "more than numbered pictures"),
        ([("a/frame_1.png", png()), ("b/frame_01.png", png())], "have the number 1"),
        ([("readme/", b"")], "holds no picture"),
        ([(f"frame_{number}.png", png()) for number in range(41)], "41 pictures; give at most 40"),
        ([("frame_0.png", bytes(5 << 20))], "unpacks to more than 4 MB"),  # of a few kB
    ],
)
def test_a_zip_of_other_things_is_refused(tmp_path, members, problem):
    path = write_zip(tmp_path / "a.zip", members)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=problem):
        unpack_pictures(path, tmp_path / "driver", LIMITS)


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    """Its list says a few bytes, and it unpacks to many."""
    path = write_zip(tmp_path / "a.zip", [("frame_0.png", bytes(1 << 22))])
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 1 << 22), struct.pack("<I", 100)))
    with pytest.raises(InputError):
        unpack_pictures(path, tmp_path / "driver", LIMITS)


def test_what_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="the zip cannot be read"):
        unpack_pictures(path, tmp_path / "driver", LIMITS)
