import zipfile

import numpy as np
import pytest

from animation.errors import InputError
from DWPose.arrangement import arrange
from DWPose.keypoints import People, to_openpose
from DWPose.recording import Recording, load_recording


def people(seed, count, detected=True):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 100, (count, 2))
    return People(
        np.concatenate([low, low + 100], axis=1),
        low[:, None] + generator.uniform(0, 100, (count, 133, 2)),
        generator.uniform(0.4, 1, (count, 133)).astype(np.float32),
        detected,
    )


@pytest.fixture
def recording():
    """A photo and four frames: one person, two people, nobody, and one in a picture without a detection."""
    video = [people(1, 1), people(2, 2), people(3, 0), people(4, 1, detected=False)]
    return Recording(people(0, 1), (200, 300), video, (320, 240), 25.0, {"photo": {"bytes": 3}})


def test_file_keeps_everything(tmp_path, recording):
    recording.drawn = arrange(recording, person="all").drawn
    recording.save(tmp_path / "keypoints.npz")
    found = load_recording(tmp_path / "keypoints.npz")
    for before, after in zip([recording.photo, *recording.video], [found.photo, *found.video], strict=True):
        for part in ("boxes", "keypoints", "scores"):
            np.testing.assert_array_equal(getattr(before, part), getattr(after, part))
        assert before.detected == after.detected
    for name in ("photo_size", "video_size", "fps", "sources"):
        assert getattr(found, name) == getattr(recording, name)
    assert (found.drawn.size, found.drawn.num_frames) == ((200, 300), 4)
    np.testing.assert_array_equal(found.drawn.frames, [0, 1, 1, 2, 2, 3])
    np.testing.assert_allclose(found.drawn.keypoints, recording.drawn.keypoints, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["keypoints.npz"]


def test_a_recording_without_a_photo(tmp_path, recording):
    recording.photo = recording.photo_size = None
    recording.save(tmp_path / "k.npz")
    assert load_recording(tmp_path / "k.npz").photo is None
    with pytest.raises(InputError, match="no photo to align to"):
        arrange(recording)


@pytest.mark.parametrize(
    "damage", ["missing", "text", "truncated", "other", "pickle", "short", "nan", "newer", "list", "drawn"]
)
def test_bad_files(tmp_path, recording, damage):
    path = tmp_path / "k.npz"
    recording.save(path)
    arrays = dict(np.load(path))
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("hello")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "other":
        np.savez(path, a=np.zeros(3))
    elif damage == "pickle":
        np.savez(path, **(arrays | {"sources": np.array([{}], dtype=object)}))
    elif damage == "short":
        np.savez(path, **(arrays | {"video_scores": arrays["video_scores"][:-1]}))
    elif damage == "nan":
        np.savez(path, **(arrays | {"video_keypoints": arrays["video_keypoints"] * np.nan}))
    elif damage == "list":
        np.savez(path, **(arrays | {"sources": "[]"}))
    elif damage == "drawn":
        recording.drawn = arrange(recording, person="all").drawn
        recording.drawn.frames[0] = -1
        recording.save(path)
    elif damage == "newer":
        np.savez(path, **(arrays | {"format": 99}))
    with pytest.raises(InputError, match=r"k\.npz: .*skeleton_extraction\.py"):
        load_recording(path)


BAD_MEMBERS = {
    "sizes of pixels": {"video_size": np.array([10**9, 10**9])},
    "infinite sizes": {"photo_size": np.array([np.inf, 100])},
    "sizes of three": {"photo_size": np.array([1, 2, 3])},
    "negative counts": {"video_counts": np.array([5, -1, 0, 0])},
    "counts beyond": {"video_counts": np.array([2**62, 2**62, 2**62, 2**62])},
    "far points": {"video_keypoints": np.full((4, 133, 2), 1e300)},
    "text": {"video_scores": np.full((4, 133), "a")},
    "deep JSON": {"sources": "[" * 100_000},
    "no rate": {"fps": np.inf},
    "formats": {"format": np.array([1, 1])},
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_members_that_make_no_sense(tmp_path, recording, name):
    path = tmp_path / "k.npz"
    recording.save(path)
    np.savez(path, **(dict(np.load(path)) | BAD_MEMBERS[name]))
    with pytest.raises(InputError, match=r"k\.npz: not a file of key points"):
        load_recording(path)


def test_members_that_are_unknown_or_too_large_are_not_read(tmp_path, recording, monkeypatch):
    path = tmp_path / "k.npz"
    recording.save(path)
    read, opened = zipfile.ZipFile.read, []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: opened.append(name) or read(self, name))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(2**20))
    assert len(load_recording(path).video) == 4
    assert opened and "bomb.npy" not in opened
    del opened[:]
    monkeypatch.setattr("DWPose.recording.LARGEST_CONTENT", 2000)
    with pytest.raises(InputError, match=r"its arrays take [0-9]+ bytes"):
        load_recording(path)
    assert not opened


@pytest.mark.parametrize("compressed", [False, True])
def test_every_damage_is_told(tmp_path, recording, compressed):
    path = tmp_path / "k.npz"
    recording.save(path)
    if compressed:
        np.savez_compressed(path, **np.load(path))
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\x01\x02", 0, len(whole) - 400)
    rng = np.random.default_rng(0)
    for number in range(200):
        damaged = bytearray(whole)
        start = 0 if number % 2 else directory
        for place in rng.integers(start, len(whole), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_recording(path)
        except InputError as error:
            assert str(path) in str(error)


def test_arrangements(recording):
    everyone = arrange(recording, "none", "all")
    assert everyone.missing.tolist() == [False, False, True, False]
    assert everyone.drawn.size == (320, 240)
    one = arrange(recording, "affine", "largest", "blank")
    assert one.drawn.frames.tolist() == [0, 1]
    assert one.missing.tolist() == [False, False, True, True]  # in the last frame the detector found nobody
    assert one.drawn.size == (200, 300)
    assert arrange(recording, "limb", "largest", size=(64, 96)).drawn.size == (64, 96)
    assert arrange(recording, "affine", "largest", "hold").drawn.frames.tolist() == [0, 1, 2, 3]
    assert len(one.distances) == 4
    assert np.isnan(one.distances[2])


def test_smoothing_follows_each_person(recording):
    recording.video = [people(1, 2) for _ in range(3)]
    for k, frame in enumerate(recording.video):
        frame.keypoints += 3 * (-1) ** k
    raw, smooth = (arrange(recording, "none", "all", smooth=on) for on in (False, True))
    assert smooth.jitter[1] < smooth.jitter[0] == raw.jitter[0] == raw.jitter[1]
    np.testing.assert_array_equal(raw.drawn.frames, smooth.drawn.frames)
    assert (raw.drawn.keypoints != smooth.drawn.keypoints).any()


def test_nobody(recording):
    hidden = people(5, 1, detected=False)
    for score, person in ((0.1, "all"), (0.9, "track"), (0.9, "0")):  # an estimator may be sure of anything
        hidden.scores[:] = score
        with pytest.raises(InputError, match="no person was found in any frame"):
            arrange(Recording(recording.photo, (200, 300), [hidden], (320, 240), 25.0), person=person)
    assert len(arrange(Recording(recording.photo, (200, 300), [hidden], (320, 240), 25.0), person="all").drawn.frames)
    with pytest.raises(InputError, match=r"no person was found in the photo.*--alignment none"):
        arrange(Recording(hidden, (200, 300), recording.video, (320, 240), 25.0))


@pytest.mark.parametrize(
    ("choice", "value"), [("alignment", "rigid"), ("missing", "guess"), ("person", "me"), ("outliers", "x")]
)
def test_unknown_choices(recording, choice, value):
    with pytest.raises(InputError, match=f"{choice} '{value}' is unknown"):
        arrange(recording, **{choice: value})


def test_order_of_key_points():
    keypoints = np.arange(133.0)[None, :, None] * np.ones(2)
    scores = np.full((1, 133), 0.5)
    ordered, ordered_scores = to_openpose(keypoints, scores)
    assert ordered[0, :18, 0].tolist() == [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert ordered[0, 18:, 0].tolist() == list(range(17, 133))
    assert ordered_scores[0, 1] == 1
    scores[0, 5] = 0.3
    assert to_openpose(keypoints, scores)[1][0, 1] == 0
