"""The driver's sound in the clip: a beep lies where its picture lies."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest

from animation.errors import InputError
from animation.media.sound import RATE, Sound, load_sound
from animation.media.video import VideoFrames
from animation.media.writing import AnimationWriter, write_mp4

FPS = 10
SAMPLE_RATE = 44100
CODECS = {".mp4": "aac", ".mkv": "flac", ".mov": "pcm_s16le"}


def beeps(times, seconds, channels=1, rate=SAMPLE_RATE):
    """(channels, N) float32 silence with a tenth of a second of 1 kHz at each of some times."""
    time = np.arange(round(seconds * rate)) / rate
    on = sum(((time >= t) & (time < t + 0.1)).astype(float) for t in times) + np.zeros_like(time)
    return np.tile((0.5 * on * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), (channels, 1))


def write_driver(path, flashes, sound=None, seconds=4.0, times=None, delay=0.0, rate=SAMPLE_RATE, gap=None):
    """A video at 10 a second, white in the frames at the times of `flashes`, with a sound (channels, N).

    Args:
        times: of the frames, seconds, instead.
        delay: seconds that the whole sound lies later.
        gap: (from, seconds): the sound's packets after a time lie so much later.
    """
    times = np.arange(round(seconds * FPS)) / FPS if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        track = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            track = container.add_stream(CODECS[path.suffix], rate=rate, layout=layout)
        for time in times:
            white = any(t - 1e-6 <= time < t + 0.1 - 1e-6 for t in flashes)
            image = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 255 * white, np.uint8), format="rgb24")
            image.pts, image.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
        if track is not None:
            for start in range(0, sound.shape[1], 1024):
                late = delay + (gap[1] if gap and start / rate >= gap[0] else 0)
                part = np.ascontiguousarray(sound[:, start : start + 1024])
                if CODECS[path.suffix] != "aac":
                    part = (part * 32767).astype(np.int16).T.reshape(1, -1)
                packed = "fltp" if CODECS[path.suffix] == "aac" else "s16"
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=packed, layout=layout)
                frame.rate, frame.pts, frame.time_base = rate, start + round(late * rate), Fraction(1, rate)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def onsets(samples, rate=RATE):
    """Seconds at which (channels, N) samples grow loud after at least 0.15 s of quiet."""
    loud = np.flatnonzero(np.abs(samples[0].astype(float)) > 0.1 * 32767) / rate
    return [round(float(t), 3) for t in loud[np.r_[True, np.diff(loud) > 0.15]]] if len(loud) else []


def read_clip(path):
    """What a player would play: the times of white pictures' beginnings, and of the beeps, and both tracks' lengths."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="gray").mean() > 128) for frame in container.decode(video=0)]
        length = frames[-1][0] + float(1 / container.streams.video[0].average_rate)
    flashes = [
        t for (t, white), before in zip(frames, [False, *(w for _, w in frames)], strict=False) if white and not before
    ]
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return flashes, None, length, None
        assert container.streams.audio[0].codec_context.name == "aac"
        resampler, placed = av.AudioResampler(format="s16p", layout="mono", rate=RATE), []
        for frame in container.decode(audio=0):
            placed += [(frame.time, part.to_ndarray()) for part in resampler.resample(frame)]
        samples = np.concatenate([part for _, part in placed], axis=1)
    silence = np.zeros((1, round(placed[0][0] * RATE)), np.int16)
    samples = np.concatenate([silence, samples], axis=1)
    return flashes, onsets(samples), length, samples.shape[1] / RATE


def make_clip(folder, driver, start=None, end=None, fps=None, repeats=1):
    """What an animation does with its driver: its frames, `repeats` times, and its sound, in an MP4."""
    source = VideoFrames(driver, start, end, fps=fps)
    frames = list(source)
    sound = load_sound(driver, source.start, len(frames) / source.fps, repeats)
    write_mp4(folder / "clip.mp4", iter(frames * repeats), source.fps, sound)
    return read_clip(folder / "clip.mp4")


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 2.0, 3.2]),
        ({"start": 1.5}, [0.5, 1.7]),
        ({"start": 1.5, "end": 3.0}, [0.5]),
        ({"end": 1.0, "repeats": 3}, [0.5, 1.5, 2.5]),
        ({"start": 1.7, "end": 2.4, "repeats": 2}, [0.3, 1.0]),
        ({"fps": 25}, [0.5, 2.0, 3.2]),
        ({"fps": 7}, [0.5, 2.0, 3.2]),
    ],
)
def test_beeps_lie_where_their_pictures_lie(tmp_path, suffix, options, expected):
    times = [0.5, 2.0, 3.2]
    driver = write_driver(tmp_path / f"driver{suffix}", times, beeps(times, 4.0))
    flashes, heard, length, heard_length = make_clip(tmp_path, driver, **options)
    frame = 1 / (options.get("fps") or FPS)
    assert heard == pytest.approx(expected, abs=frame)
    assert flashes == pytest.approx(expected, abs=frame)
    assert heard == pytest.approx(flashes, abs=frame)
    if "fps" not in options:
        assert heard == pytest.approx(expected, abs=0.03)  # the sound itself is exact to a few milliseconds
    assert heard_length == pytest.approx(length, abs=0.05)


def test_the_comparison_notices_a_shifted_sound(tmp_path):
    driver = write_driver(tmp_path / "driver.mp4", [2.0], beeps([2.25], 4.0))
    flashes, heard, *_ = make_clip(tmp_path, driver)
    assert abs(heard[0] - flashes[0]) > 2 / FPS


@pytest.mark.parametrize(("sound_seconds", "expected"), [(1.0, [0.5]), (9.0, [0.5, 3.5])])
def test_a_shorter_sound_goes_on_as_silence_and_a_longer_one_ends_with_the_picture(tmp_path, sound_seconds, expected):
    driver = write_driver(tmp_path / "driver.mp4", [], beeps([0.5, 3.5, 6.0], sound_seconds))
    _, heard, length, heard_length = make_clip(tmp_path, driver)
    assert heard == pytest.approx(expected, abs=0.03)
    assert (length, heard_length) == (pytest.approx(4), pytest.approx(4, abs=0.05))


@pytest.mark.parametrize("suffix", CODECS)
def test_an_even_rate_is_known_as_such(tmp_path, suffix):
    times = np.round(np.arange(200) / FPS, 3)
    driver = write_driver(tmp_path / f"driver{suffix}", [1.0], beeps([1.0], 2.0), times=times)
    assert VideoFrames(driver).has_even_rate()


def test_a_driver_without_sound_gives_a_clip_without(tmp_path, caplog):
    caplog.set_level(logging.INFO, "animation")
    driver = write_driver(tmp_path / "driver.mp4", [1.0])
    assert load_sound(driver, 0, 4.0) is None
    assert "has no sound" in caplog.text
    assert make_clip(tmp_path, driver)[1] is None


def test_a_sound_of_no_length_gives_a_clip_without(tmp_path, caplog):
    driver = write_driver(tmp_path / "driver.mov", [1.0], np.zeros((1, 0), np.float32))
    assert load_sound(driver, 0, 4.0) is None
    assert load_sound(write_driver(tmp_path / "b.mp4", [1.0], beeps([0.2], 1.0)), 2.0, 2.0) is None
    assert "no sound in this part" in caplog.text


def test_a_sound_that_begins_later_or_has_a_gap_keeps_its_place(tmp_path):
    late = write_driver(tmp_path / "late.mkv", [1.5], beeps([0.5], 2.0), delay=1.0)
    assert make_clip(tmp_path, late)[1] == pytest.approx([1.5], abs=0.03)
    assert make_clip(tmp_path, late, start=1.2)[1] == pytest.approx([0.3], abs=0.03)
    gap = write_driver(tmp_path / "gap.mkv", [], beeps([0.5, 1.5], 2.0), gap=(1.0, 1.0))
    assert make_clip(tmp_path, gap)[1] == pytest.approx([0.5, 2.5], abs=0.05)


def test_a_variable_rate_made_even_stays_with_its_sound(tmp_path):
    times = np.concatenate([np.arange(0, 1, 0.1), np.arange(1, 3, 0.4), np.arange(3, 4, 0.1)])
    driver = write_driver(tmp_path / "driver.mkv", [0.5, 3.5], beeps([0.5, 3.5], 4.0), times=times)
    flashes, heard, *_ = make_clip(tmp_path, driver, fps=FPS)
    assert not VideoFrames(driver).has_even_rate()
    assert heard == pytest.approx([0.5, 3.5], abs=0.03)
    assert flashes == pytest.approx(heard, abs=1 / FPS)
    flashes, heard, *_ = make_clip(tmp_path, driver)  # the control: frame after frame, the pictures run ahead
    assert abs(flashes[-1] - heard[-1]) > 1 / FPS


@pytest.mark.parametrize(("channels", "rate", "expected"), [(1, 8000, 1), (2, 48000, 2), (6, 44100, 2)])
def test_channels_and_rates(tmp_path, channels, rate, expected):
    driver = write_driver(tmp_path / "driver.mp4", [1.0], beeps([1.0], 2.0, channels, rate), rate=rate)
    sound = load_sound(driver, 0, 2.0)
    assert len(sound.samples) == expected
    assert onsets(sound.samples) == pytest.approx([1.0], abs=0.03)
    assert sound.seconds == pytest.approx(2.0, abs=0.05)


def test_a_sound_file_alone_and_parts_of_it(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        samples = (beeps([0.5], 1.0, rate=RATE) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = RATE
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    np.testing.assert_array_equal(load_sound(path, 0, 1.0).samples, samples)
    np.testing.assert_array_equal(load_sound(path, 0.25, 0.5).samples, samples[:, RATE // 4 : 3 * RATE // 4])
    twice = load_sound(path, 0.25, 1.0, repeats=2).part(0, 2 * RATE)  # 0.75 s and 0.25 s of silence, twice
    np.testing.assert_array_equal(twice, np.tile(np.pad(samples[:, RATE // 4 :], ((0, 0), (0, RATE // 4))), 2))
    assert not Sound(samples).part(RATE, RATE + 10).any()


def test_damage_is_silence_from_there_and_no_error(tmp_path, caplog):
    driver = write_driver(tmp_path / "driver.mkv", [], beeps([0.5, 3.5], 4.0))
    data = bytearray(driver.read_bytes())
    place = len(data) * 6 // 10
    data[place : place + 2000] = bytes(range(250)) * 8
    driver.write_bytes(data)
    assert onsets(load_sound(driver, 0, 4.0).samples)[0] == pytest.approx(0.5, abs=0.03)


def test_bad_sounds(tmp_path):
    (tmp_path / "text.mp4").write_text("no sound")
    with pytest.raises(InputError, match="cannot be read"):
        load_sound(tmp_path / "text.mp4", 0, 1.0)
    with pytest.raises(InputError, match="cannot be read"):
        load_sound(tmp_path / "missing.mp4", 0, 1.0)
    for options in ({"start": -1}, {"seconds": 0}, {"repeats": 0}, {"start": float("nan")}):
        with pytest.raises(InputError, match="no such part of a sound"):
            load_sound(tmp_path / "text.mp4", **({"start": 0.0, "seconds": 1.0} | options))


def test_the_writer_hands_the_sound_on(tmp_path):
    sound = Sound((beeps([0.4], 1.0, 2, RATE) * 32767).astype(np.int16))
    frames = np.zeros((10, 32, 32, 3), np.uint8)
    with AnimationWriter(tmp_path, 10, 10, png=False, gif=False, sound=sound) as writer:
        writer.write(frames)
    assert read_clip(tmp_path / "animation.mp4")[1] == pytest.approx([0.4], abs=0.03)
    with AnimationWriter(tmp_path, 0, 10, sound=sound):
        pass
