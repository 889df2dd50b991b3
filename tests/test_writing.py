"""Video out: right pixels, right rates, whole files or none."""

import threading

import av
import numpy as np
import pytest
from PIL import Image

from animation.errors import InputError
from animation.media import writing
from animation.media.writing import AnimationWriter, gif_durations, publish_frames


def frames(count, height=64, width=96):
    y, x = np.mgrid[:height, :width]
    return np.stack([np.stack([x * 2, y * 3, (x + y + 20 * i) % 255], axis=-1) for i in range(count)]).astype(np.uint8)


def write(folder, video, chunk=4, **options):
    with AnimationWriter(folder, len(video), options.pop("fps", 7), **options) as writer:
        for start in range(0, len(video), chunk):
            writer.write(video[start : start + chunk])
    return writer


def test_png_is_exact_and_mp4_and_gif_close(tmp_path):
    video = frames(11)
    assert write(tmp_path, video).outputs == ["animated_images", "animated_images.gif", "animation.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "animated_images",
        "animated_images.gif",
        "animation.mp4",
    ]
    for i, frame in enumerate(video):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "animated_images" / f"frame_{i}.png")), frame)
    with av.open(str(tmp_path / "animation.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 7
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == video.shape
    assert np.abs(decoded.astype(int) - video).mean() < 6
    with Image.open(tmp_path / "animated_images.gif") as gif:
        assert gif.n_frames == 11
        assert gif.info["loop"] == 0
        total = 0
        for i, frame in enumerate(video):
            gif.seek(i)
            total += gif.info["duration"]
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frame).mean() < 12
    assert total == pytest.approx(11 / 7 * 1000, abs=10)


def test_formats_can_be_left_out_and_stale_frames_go(tmp_path):
    write(tmp_path, frames(5), gif=False, mp4=False)
    assert len(list((tmp_path / "animated_images").iterdir())) == 5
    (tmp_path / "animated_images" / "mine.txt").touch()
    write(tmp_path, frames(2), gif=False, mp4=False)
    names = sorted(path.name for path in (tmp_path / "animated_images").iterdir())
    assert names == ["frame_0.png", "frame_1.png", "mine.txt"]
    assert write(tmp_path / "other", frames(2), png=False).outputs == ["animated_images.gif", "animation.mp4"]
    assert not (tmp_path / "other" / "animated_images").exists()


def test_one_frame_and_fractional_rates(tmp_path):
    write(tmp_path, frames(1), fps=23.976)
    with av.open(str(tmp_path / "animation.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(23.976, rel=1e-4)
        assert len(list(container.decode(video=0))) == 1


def test_an_error_leaves_nothing_half_written_and_the_earlier_result_whole(tmp_path):
    write(tmp_path, frames(3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), AnimationWriter(tmp_path, 8, 7) as writer:
        writer.write(frames(5) // 2)
        raise KeyboardInterrupt
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert threading.active_count() == threads


def test_a_failing_format_ends_the_run_and_does_not_hang(tmp_path, monkeypatch):
    def fail(path, frames_rgb, *options):
        next(frames_rgb)
        raise OSError("disk full")

    monkeypatch.setattr(writing, "write_mp4", fail)
    with pytest.raises(OSError, match="disk full"), AnimationWriter(tmp_path, 200, 7) as writer:
        for _ in range(50):
            writer.write(frames(4))
    assert list(tmp_path.iterdir()) == []


def test_frames_beyond_the_queue_wait(tmp_path):
    write(tmp_path, frames(3 * writing.QUEUE_FRAMES, 64, 64), chunk=50)
    assert len(list((tmp_path / "animated_images").iterdir())) == 3 * writing.QUEUE_FRAMES


@pytest.mark.parametrize("fps", [1, 7, 8, 12.5, 23.976, 25, 30, 50])
def test_gif_durations_keep_the_total(fps):
    durations = gif_durations(100, fps)
    assert len(durations) == 100
    assert sum(durations) == pytest.approx(100_000 / fps, abs=10)
    assert max(durations) - min(durations) <= 10
    assert all(duration % 10 == 0 for duration in durations)


def test_gif_frames_are_never_shorter_than_players_allow():
    assert gif_durations(10, 120) == [20] * 10


def test_bad_outputs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        AnimationWriter(tmp_path / "file", 1, 7)
    AnimationWriter(tmp_path / "new" / "folder", 1, 7)
    assert not (tmp_path / "new").exists()  # made when there is something to write
    for fps in (0, -1, float("nan")):
        with pytest.raises(InputError, match="not above 0"):
            AnimationWriter(tmp_path, 1, fps)


def test_published_frames_leave_none_of_a_longer_video(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    for place, numbers in ((source, range(2)), (folder, (0, 1, 2, 5, 9))):
        place.mkdir()
        for number in numbers:
            (place / f"frame_{number}.png").write_text(place.name)
    (folder / "frame_x.png").touch()
    publish_frames(source, folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["frame_0.png", "frame_1.png", "frame_x.png"]
    assert (folder / "frame_1.png").read_text() == "source"
