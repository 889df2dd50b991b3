"""From a photo and a driver of any kind to a clip: what comes out, and what each flag does to it."""

import json
import sys
import time
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from animation import cli, runtime
from animation.clip.cases import check_cases, read_cases
from animation.clip.colours import matcher, moving_mean, statistics
from animation.clip.driver import are_skeletons, open_driver, pick
from animation.clip.figures import seams, window_borders
from animation.clip.flow import Models, make_clip
from animation.clip.settings import PRESETS, ClipSettings
from animation.clip.skeletons import looped
from animation.commands import animate
from animation.errors import InputError
from animation.flags import Parser, add_flags, parse
from animation.media.sound import RATE, load_sound
from animation.weights.layout import Checkpoints
from animation.windows import window_indices
from DWPose.recording import load_recording
from tests import pose_models
from tests.clips import FRAMES, clip_settings, flags_of, frames_of, write_keypoints
from tests.face_models import write_face_models
from tests.test_skeleton_extraction import picture, write_frames
from tests.test_sound import beeps

ROOT = Path(__file__).parents[1]
FPS = 10


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture(scope="module")
def dwpose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dwpose")
    pose_models.write_models(folder)
    return str(folder)


def make(settings, models):
    settings = settings.resolve()
    return make_clip(settings, settings.read_inputs(), models)


def walk(count=FRAMES):
    """A red square, which the stand-in detector takes for a person, that walks to the right."""
    return [picture((100 + 16 * k, 120)) for k in range(count)]


def write_dance(path, count=FRAMES, sound=True, rate=FPS):
    """A video of the walk, with a beep at 0.2 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        stream.options = {"crf": "1"}
        track = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for number, image in enumerate(walk(count)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            samples = beeps([0.2], count / rate)
            for start in range(0, samples.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(samples[:, start : start + 1024]), format="fltp", layout="mono"
                )
                frame.rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


@pytest.fixture
def photo(tmp_path):
    """One that the stand-ins find a person and a face in."""
    Image.fromarray(picture((100, 100), width=200, height=200)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.mark.slow
def test_a_photo_and_a_video_with_sound_become_a_clip_with_its_sound(
    tmp_path, checkpoint, case, models, dwpose, photo, caplog
):
    caplog.set_level("INFO", "animation")
    video = write_dance(tmp_path / "dance.mp4")
    faces = str(write_face_models(tmp_path / "faces"))
    settings = clip_settings(
        tmp_path,
        checkpoint,
        case,
        photo=photo,
        video=str(video),
        dwpose_models=dwpose,
        face_models=faces,
        face_embedding=None,
        alignment="affine",
        no_figures=False,
        side_by_side=True,
        gif=True,
    )
    facts = make(settings, models)
    out = Path(settings.output)
    assert "dance.mp4: a video file" in caplog.text
    assert sorted(path.name for path in out.iterdir()) == [
        "animated_images",
        "animated_images.gif",
        "animation.mp4",
        "contact_sheet.png",
        "csim.png",
        "intermediate",
        "run.json",
        "side_by_side.mp4",
    ]
    for name in ("animation.mp4", "side_by_side.mp4"):
        with av.open(str(out / name)) as container:
            stream = container.streams.video[0]
            assert (stream.average_rate, stream.frames) == (FPS, FRAMES)
            assert container.streams.audio[0].codec_context.name == "aac"
        sound = load_sound(out / name, 0, FRAMES / FPS).samples.astype(float)[0]
        loud = np.flatnonzero(np.abs(sound) > 0.25 * 32767) / RATE
        assert abs(loud.min() - 0.2) < 0.02 and abs(loud.max() - 0.3) < 0.02
    with av.open(str(out / "side_by_side.mp4")) as container:
        assert container.streams.video[0].width > 3 * container.streams.video[0].height
    assert {"skeletons", "face_embedding", "encode", "denoise", "decode", "write", "show"} <= set(facts["seconds"])
    assert facts["driver"] == {"kind": "video", "path": str(video), "fps": FPS}
    assert len(facts["csim"]["frames"]) == FRAMES and facts["csim"]["mean"] is not None
    assert facts["seams"]["borders"] == [3, 4]
    first = frames_of(out)
    assert first.shape == (FRAMES, 64, 64, 3)
    # The same again from what was kept; networks that are away are not missed.
    (out / "run.json").unlink()
    caplog.clear()
    make(settings, models)
    assert "6 skeletons of an earlier run are taken" in caplog.text
    assert "the face embedding of an earlier run is taken" in caplog.text
    assert np.array_equal(frames_of(out), first)


@pytest.mark.slow
def test_all_kinds_of_driver_are_found_out_and_agree(tmp_path, checkpoint, case, models, dwpose, photo, caplog):
    caplog.set_level("INFO", "animation")
    common = {"photo": photo, "dwpose_models": dwpose}
    video = write_dance(tmp_path / "dance.mp4", sound=False)
    frames = write_frames(tmp_path / "frames", walk())
    by_frames = clip_settings(
        tmp_path, checkpoint, case, video=str(frames), output=str(tmp_path / "1"), **common, fps=10
    )
    make(by_frames, models)
    skeletons = tmp_path / "1" / "intermediate" / "skeletons"
    by_poses = clip_settings(tmp_path, checkpoint, case, video=str(skeletons), output=str(tmp_path / "2"), **common)
    by_points = clip_settings(
        tmp_path, checkpoint, case, video=str(skeletons / "keypoints.npz"), output=str(tmp_path / "3"), **common
    )
    for settings in (by_poses, by_points):
        make(settings, models)
        assert np.array_equal(frames_of(settings.output), frames_of(by_frames.output))
    for words in ("a folder of frames", "a folder of skeletons", "recorded key points"):
        assert words in caplog.text
    assert not are_skeletons(frames) and are_skeletons(skeletons)
    assert open_driver(video).kind == "video"
    assert (tmp_path / "2" / "intermediate" / "skeletons" / "keypoints.npz").is_file()
    drawn = [load_recording(tmp_path / n / "intermediate" / "skeletons" / "keypoints.npz").drawn for n in "12"]
    np.testing.assert_allclose(drawn[0].keypoints, drawn[1].keypoints, atol=1e-6)


@pytest.mark.slow
def test_the_photos_own_skeleton_as_anchor(tmp_path, checkpoint, case, models, dwpose, photo):
    settings = clip_settings(
        tmp_path, checkpoint, case, photo=photo, dwpose_models=dwpose, anchor="photo", alignment="affine"
    )
    facts = make(settings, models)
    poses = sorted((settings.output / Path("intermediate/skeletons")).glob("frame_*.png"))
    assert (len(poses), facts["num_frames"], len(frames_of(settings.output))) == (FRAMES + 1, FRAMES, FRAMES)
    other = clip_settings(
        tmp_path,
        checkpoint,
        case,
        photo=photo,
        dwpose_models=dwpose,
        alignment="affine",
        output=str(tmp_path / "first"),
    )
    make(other, models)
    assert not np.array_equal(frames_of(other.output), frames_of(settings.output))
    recordings = [load_recording(Path(s.output) / "intermediate/skeletons/keypoints.npz") for s in (settings, other)]
    assert recordings[0].drawn.num_frames == FRAMES + 1
    np.testing.assert_allclose(recordings[0].drawn.keypoints[1:], recordings[1].drawn.keypoints)


def test_padding_is_cut_off_and_rotation_honoured(tmp_path, checkpoint, case, models):
    photo = Image.new("RGB", (90, 30), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.save(tmp_path / "lying.jpg", exif=exif)
    settings = clip_settings(tmp_path, checkpoint, case, photo=str(tmp_path / "lying.jpg"), fit="pad")
    facts = make(settings, models)
    assert frames_of(settings.output).shape == (FRAMES, 64, 22, 3)
    assert facts["size"] == [64, 64]


def test_part_rate_and_loop(tmp_path, checkpoint, case, models):
    settings = clip_settings(tmp_path, checkpoint, case, start=0.1, end=0.4, loop=3, max_seconds=0.7)
    facts = make(settings, models)
    assert facts["num_frames"] == 7
    drawn = load_recording(Path(settings.output) / "intermediate/skeletons/keypoints.npz").drawn
    np.testing.assert_allclose(drawn.keypoints[0], drawn.keypoints[3])
    assert not np.allclose(drawn.keypoints[0], drawn.keypoints[1])
    slower = clip_settings(tmp_path, checkpoint, case, fps=5, output=str(tmp_path / "5"))
    assert make(slower, models)["num_frames"] == 3


@pytest.mark.slow
def test_noise_and_colours(tmp_path, checkpoint, case, models):
    results = {}
    for name, changes in {
        "plain": {},
        "fresh": {"noise": "fresh"},
        "matched": {"color_match": True},
    }.items():
        settings = clip_settings(tmp_path, checkpoint, case, output=str(tmp_path / name), **changes)
        make(settings, models)
        results[name] = frames_of(settings.output)
    assert not np.array_equal(results["plain"], results["fresh"])
    photo = np.asarray(Image.open(tmp_path / "plain" / "intermediate" / "photo.png"))

    def distance(frames):
        return np.mean([np.abs(statistics(frame) - statistics(photo))[0].mean() for frame in frames])

    assert distance(results["matched"]) < 0.3 * distance(results["plain"])


def test_a_cpu_that_computes_in_bf16_does_so_unless_told_otherwise(tmp_path, checkpoint, case, models, monkeypatch):
    monkeypatch.setattr(runtime, "computes_in_bf16", lambda: True)
    found = {}
    for dtype in ("auto", "bf16", "fp32"):
        settings = clip_settings(tmp_path, checkpoint, case, dtype=dtype, output=str(tmp_path / dtype))
        found[dtype] = make(settings, models)["dtype"], (tmp_path / dtype / "animated_images/frame_0.png").read_bytes()
    assert found["auto"] == found["bf16"] and found["auto"][0] == "bfloat16"
    assert found["fp32"][0] == "float32" and found["fp32"][1] != found["auto"][1]


def test_colours_of_a_drift_are_the_photos():
    rng = np.random.default_rng(0)
    photo = rng.integers(60, 190, (32, 32, 3)).astype(np.uint8)
    frames = [np.clip(photo.astype(int) - 2 * k, 0, 255).astype(np.uint8) for k in range(20)]
    match = matcher(photo, frames, 1)
    assert max(np.abs(match(k, frame).astype(int) - photo).mean() for k, frame in enumerate(frames)) < 3
    assert np.abs(frames[-1].astype(int) - photo).mean() > 30
    values = rng.normal(size=(7, 2))
    expected = [values[max(0, k - 1) : k + 2].mean(axis=0) for k in range(7)]
    np.testing.assert_allclose(moving_mean(values, 3), expected)
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert np.array_equal(matcher(grey, [grey], 1)(0, grey), grey)


def test_seams():
    assert window_borders(window_indices(4, 6, 2)) == []
    windows = window_indices(10, 4, 1)  # [0 1 2 3] [0 4 5 6] [0 7 8 9]
    assert window_borders(windows) == [4, 7]
    jumps = [1, 1, 1, 5, 1, 1, 5, 1, 1]
    figure = seams(jumps, window_borders(windows))
    assert figure == {"borders": [4, 7], "at_borders": 5.0, "median_step": 1.0, "ratio": 5.0}
    assert seams([1, 2], [])["ratio"] is None
    assert seams([], [])["median_step"] is None
    assert seams([0, 0], [1])["ratio"] is None


@pytest.mark.parametrize(
    ("count", "rate", "start", "end", "fps", "expected"),
    [
        (4, 10, 0, None, None, [0, 1, 2, 3]),
        (4, 10, 0.1, 0.3, None, [1, 2]),
        (4, 10, 0, None, 5, [0, 2]),
        (4, 10, 0, None, 20, [0, 0, 1, 1, 2, 2, 3, 3]),
        (3, 29.97, 0, None, None, [0, 1, 2]),
        (4, 10, 1, None, None, []),
    ],
)
def test_frames_are_picked_when_they_are_due(count, rate, start, end, fps, expected):
    assert pick(count, rate, start, end, fps) == expected


def test_repeats_end_with_the_time():
    assert looped(3, 10, 2, None) == [0, 1, 2, 0, 1, 2]
    assert looped(3, 10, 2, 0.4) == [0, 1, 2, 0]
    assert looped(3, 10, 1, 0.01) == [0]


def test_presets_set_what_no_flag_does(caplog):
    caplog.set_level("INFO", "animation")
    for name, sets in PRESETS.items():
        found = ClipSettings(preset=name).resolve(Checkpoints(*[Path("x")] * 7))
        assert {key: getattr(found, key) for key in sets} == sets
        assert f"preset {name}: num_inference_steps {sets['num_inference_steps']}" in caplog.text
        assert found.size == "auto"
        changed = ClipSettings(preset=name, num_inference_steps=7, face_optimization=not sets["face_optimization"])
        changed = changed.resolve(Checkpoints(*[Path("x")] * 7))
        assert (changed.num_inference_steps, changed.face_optimization) == (7, not sets["face_optimization"])
    tiny = Checkpoints(
        *[Path("x/y")] * 7, tiny=True, suits={"width": 128, "height": 192, "canvas": 300, "num_inference_steps": 9}
    )
    found = ClipSettings().resolve(tiny)
    assert [ClipSettings(preset=name).resolve(tiny).num_inference_steps for name in ("draft", "best")] == [8, 9]
    assert ClipSettings(num_inference_steps=25).resolve(tiny).num_inference_steps == 25
    assert (found.size, found.canvas, found.unet_model_name_or_path) == ("128x192", 300, "x/y")
    assert "SMALL" in caplog.text


def test_flags_are_the_settings():
    parser = Parser(None)
    add_flags(parser, animate.AnimateSettings)
    own = {"help", "cases", "dry_run", "ray", "ray_workers", "max_retries"}
    known = {action.dest for action in parser._actions} - own
    assert known == {field.name for field in fields(ClipSettings)} | set(ClipSettings.RETIRED)
    assert parse(animate.AnimateSettings, None, []).shared(ClipSettings) == vars(ClipSettings())
    assert "(default: standard)" in " ".join(parser.format_help().split())


def run(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["animate.py", *flags])
    status = 0
    try:
        cli.run(animate.main)
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


@pytest.mark.slow
def test_a_dry_run_tells_and_writes_nothing(tmp_path, checkpoint, case, monkeypatch, capsys):
    flags = flags_of(clip_settings(tmp_path, checkpoint, case))
    status, told, _ = run(monkeypatch, capsys, *flags, "--dry_run")
    assert status == 0
    assert "2 steps of 2 windows of 4 frames that share 1: 8 calls of the UNet" in told
    assert "6 frames at 10 a second, 0.60 s" in told
    assert not (tmp_path / "out").exists()


def test_many_cases_and_one_bad(tmp_path, checkpoint, case, monkeypatch, capsys):
    common = clip_settings(tmp_path, checkpoint, case)
    flags = flags_of(replace(common, photo=None, video=None))
    cases = [
        {"name": "good", "photo": common.photo, "video": common.video, "seed": 7},
        {"name": "no photo", "photo": "nowhere.png", "video": common.video},
        {"photo": common.photo, "video": common.video, "sede": 1},
        {"name": "wrong", "photo": common.photo, "video": common.video, "seed": "many"},
        {"name": "good", "photo": common.photo, "video": common.video},
        "good",
        *({"name": name, "photo": common.photo, "video": common.video} for name in BAD_NAMES),
        {"name": "later", "photo": common.photo, "video": common.video, "guidance_scale": 1},
    ]
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump(cases))
    status, told, logged = run(monkeypatch, capsys, *flags, f"--cases={path}")
    assert status == 1
    assert f"2 of {7 + len(BAD_NAMES)} clips made, {5 + len(BAD_NAMES)} failed" in told
    for message in (
        "nowhere.png: no such photo",
        "'sede' is no setting; did you mean 'seed'?",
        "seed is 'many', of type str; it must be int",
        "is that of good too",
        "'good' is no case",
        "name '../out of it' cannot be a folder's",
        "name 'cases.json' cannot be a folder's",
    ):
        assert message in told
    assert f"error: {5 + len(BAD_NAMES)} of {7 + len(BAD_NAMES)} clips failed: " in logged
    assert logged.count("denoising") >= 2
    assert len(frames_of(tmp_path / "out" / "good")) == len(frames_of(tmp_path / "out" / "later")) == FRAMES
    rows = json.loads((tmp_path / "out" / "cases.json").read_text())["cases"]
    assert [row["state"] for row in rows] == ["made", *["FAILED"] * (len(rows) - 2), "made"]


def test_cases_as_yaml(tmp_path, checkpoint, case):
    common = clip_settings(tmp_path, checkpoint, case)
    path = tmp_path / "cases.yaml"
    path.write_text(f"- {{name: a, seed: 1}}\n- {{name: b}}\n- {{name: c}}\n- {{photo: {case / 'reference.png'}}}\n")
    cases = check_cases(common, read_cases(path))
    assert [case.name for case in cases] == ["a", "b", "c", "case-003"]
    assert all(case.error is None for case in cases)
    assert cases[0].settings.seed == 1 and cases[0].settings.output == str(tmp_path / "out" / "a")


BAD_NAMES = ["../out of it", " ", "", "cases.json", "Cases.JSON", "a\nb", "a\0b", ".", "..", ".hidden", "x" * 200]
BAD_FILES = {
    "another ending.txt": "- {}",
    "not closed.yaml": "a: [",
    "no list.yaml": "a: 1",
    "empty.yaml": "",
    "a bomb.yaml": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "deep.yaml": "[" * 5000,
    "code.yaml": "- !!python/object/apply:os.system [touch made]",
    "bytes.yaml": "\x00\x01",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_cases_that_cannot_be_read(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(BAD_FILES[name])
    start = time.monotonic()
    with pytest.raises(InputError, match="--cases") as raised:
        read_cases(tmp_path / name)
    assert time.monotonic() - start < 5
    assert len(str(raised.value)) < 500 + len(str(tmp_path))
    assert not (tmp_path / "made").exists()


def test_values_of_cases_are_checked_one_by_one(tmp_path, checkpoint, case):
    """What is wrong with one case stands in its error, however odd; the others go on."""
    common = clip_settings(tmp_path, checkpoint, case)
    odd = [{"seed": 10**400}, {"guidance_scale": 10**400}, {"photo": "\ud800"}, {"photo": "a\0"}, {7: 7}, [[]], None]
    found = check_cases(common, [{"seed": 1}, *odd, {"seed": 2}])
    assert [case.error is None for case in found] == [True, *[False] * len(odd), True]
    assert all(len(case.error) < 200 and "\n" not in case.error for case in found[1:-1])


def test_many_processes_and_many_clips_are_told_apart(tmp_path, checkpoint, case, monkeypatch, capsys):
    one = flags_of(clip_settings(tmp_path, checkpoint, case))
    assert "error: --ray shares out the clips of --cases" in run(monkeypatch, capsys, *one, "--ray")[2]
    (tmp_path / "cases.yaml").write_text("- {name: a}")
    many = [*one, f"--cases={tmp_path / 'cases.yaml'}"]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert 'error: --ray: Ray is not installed; pip install ".[cluster]"' in run(patch, capsys, *many, "--ray")[2]
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, told = run(monkeypatch, capsys, *many)
    assert (status, told) == (2, "error: --cases for 2 processes: these make one clip together; --ray makes many\n")


def test_skeletons_are_told_from_pictures(tmp_path):
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 10, (32, 32, 3)).astype(np.uint8) for _ in range(2)]
    stage = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(stage, (32, 32), 12, (205, 160, 130), cv2.FILLED)
    limbs = np.zeros((64, 64, 3), np.uint8)
    cv2.line(limbs, (10, 10), (50, 50), (153, 51, 0), 4)
    table = [
        ("dark", dark, False),
        ("stage", [stage], False),
        ("limbs", [limbs], True),
        ("some blank", [stage * 0, limbs], True),
        ("all blank", [stage * 0], False),
    ]
    for name, frames, expected in table:
        assert are_skeletons(write_frames(tmp_path / name, frames)) is expected, name
    write_keypoints(tmp_path / "only" / "keypoints.npz")
    assert open_driver(tmp_path / "only").kind == "keypoints"
