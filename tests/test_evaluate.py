"""The script as a user runs it: cases found, every metric in its place, what cannot run said, bad input refused."""

import csv
import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from animation import cli
from animation.commands import evaluate
from animation.errors import InputError
from animation.evaluation import evaluation, measures, metrics
from animation.evaluation.cases import find_cases
from animation.evaluation.evaluation import case_block, contact_sheet
from animation.evaluation.settings import EvaluationSettings
from animation.flags import parse
from animation.media.panels import THUMB
from animation.media.writing import AnimationWriter
from animation.weights import layout
from DWPose.keypoints import People
from DWPose.recording import Drawn, Recording
from tests.face_models import write_face_models
from tests.test_evaluation_networks import alexnet, small_i3d

SIZE = (64, 96)  # width, height
SHIFT = 4  # pixels, of the marks in the results


def picture(seed, shift=0):
    """A smooth picture with 18 grey marks, whose place tells a key point's."""
    x, y = np.meshgrid(np.linspace(0, 3, SIZE[0]), np.linspace(0, 3, SIZE[1]))
    channels = [np.sin(x * (k + 1) + seed) + np.cos(y + 2 * seed + k) for k in range(3)]
    image = np.clip(100 + 40 * np.stack(channels, axis=-1), 0, 200)
    for k in range(18):
        image[5 + 5 * k, 8 + 2 * k + shift] = 255
    return Image.fromarray(image.astype(np.uint8))


def write_frames(folder, count, shift=0, noise=0.0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = np.asarray(picture(i, shift)).astype(float)
        image = np.where(image == 255, 255, np.clip(image + rng.normal(0, noise, image.shape), 0, 254))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"frame_{i}.png")


@pytest.fixture(autouse=True)
def no_checkpoints(tmp_path, monkeypatch):
    """No network is there unless a flag names it."""
    nowhere = layout.Checkpoints(*[tmp_path / "none"] * 7)
    monkeypatch.setattr(layout, "find_checkpoints", lambda *_: nowhere)


@pytest.fixture
def folders(tmp_path):
    """Three cases: all there; without driver, the results beside each other; only a photo and a driver."""
    truth, results = tmp_path / "inference", tmp_path / "results"
    for name, count in (("case-1", 20), ("case-2", 4), ("case-10", 3)):
        write_frames(results / name / "animated_images", count, SHIFT, noise=20)
        if name != "case-10":
            write_frames(truth / name / "truth", count)
        if name != "case-2":
            write_frames(truth / name / "driver", count)
        picture(0).save(truth / name / "reference.png")
    write_frames(truth / "case-2" / "poses", 4)
    (truth / "notes").mkdir()
    return {"--results": results, "--truth": truth, "--output_dir": tmp_path / "out", "--device": "cpu"}


def find_marks(image_rgb):
    """A stand-in for DWPose: the white marks are the body."""
    points = np.argwhere((image_rgb == 255).all(axis=-1))[:, ::-1].astype(float)
    keypoints, scores = np.zeros((1, 134, 2)), np.zeros((1, 134))
    keypoints[0, : len(points)], scores[0, : len(points)] = points, 1
    return People(np.array([[0.0, 0, *SIZE]]), keypoints, scores)


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Flags of small networks for every metric; the pose estimator finds the marks."""
    torch.save(alexnet().state_dict(), tmp_path / "alexnet.pth")
    torch.save(small_i3d().state_dict(), tmp_path / "i3d.pt")
    monkeypatch.setattr(measures, "Wholebody", lambda *_: find_marks)
    (tmp_path / "DWPose").mkdir()
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        (tmp_path / "DWPose" / name).write_bytes(b"stood in for")
    return {
        "--lpips_weights": tmp_path / "alexnet.pth",
        "--fvd_weights": tmp_path / "i3d.pt",
        "--fvd_clip_frames": 10,
        "--face_models": write_face_models(tmp_path / "antelopev2"),
        "--pose_models": tmp_path / "DWPose",
    }


def run(monkeypatch, capsys, flags):
    """Run the script in this process: its exit status, standard output and standard error."""
    arguments = [str(part) for pair in flags.items() for part in pair if part is not None]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    status, handler = 0, signal.getsignal(signal.SIGTERM)
    try:
        cli.run(evaluate.main)
    except SystemExit as error:
        status = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, *capsys.readouterr()


def images(folder):
    return [np.asarray(Image.open(folder / f"frame_{i}.png")) for i in range(len(list(folder.iterdir())))]


def to_clip(frames_rgb):
    """(1, 3, T, 224, 224) in −1..1."""
    frames = torch.from_numpy(np.stack(frames_rgb)).permute(0, 3, 1, 2) / 127.5 - 1
    return torch.nn.functional.interpolate(frames, (224, 224), mode="bilinear").transpose(0, 1)[None]


@pytest.mark.slow
def test_everything_is_measured_and_written(monkeypatch, capsys, folders, networks):
    status, table, _ = run(monkeypatch, capsys, {**folders, **networks})
    out = folders["--output_dir"]
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "case-1.csv",
        "case-10.csv",
        "case-2.csv",
        "contact_sheet.png",
        "metrics.json",
    ]
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["cases"]) == ["case-1", "case-2", "case-10"]

    for name in ("case-1", "case-2"):
        pairs = list(
            zip(
                images(folders["--results"] / name / "animated_images"),
                images(folders["--truth"] / name / "truth"),
                strict=True,
            )
        )
        for column in ("l1", "psnr", "psnr_disco", "ssim"):
            expected = np.mean([getattr(metrics, column)(*pair) for pair in pairs])
            assert found["cases"][name]["metrics"][column] == pytest.approx(expected)
    first, second, third = (found["cases"][name] for name in ("case-1", "case-2", "case-10"))
    assert found["mean"]["psnr"] == pytest.approx((first["metrics"]["psnr"] + second["metrics"]["psnr"]) / 2)
    assert found["cases_measured"] == {
        "l1": 2,
        "psnr": 2,
        "psnr_disco": 2,
        "ssim": 2,
        "lpips": 2,
        "csim_photo": 3,
        "csim_truth": 2,
        "csim_driver": 2,
        "pck_0.05": 3,
        "pck_0.1": 3,
    }
    # Marks moved by 4 pixels of a body 85 high: wrong at 0.04, right at 0.05.
    assert first["metrics"]["pck_0.05"] == third["metrics"]["pck_0.05"] == 1
    assert second["not_run"] == {"csim_driver": "no driver"}
    assert third["not_run"]["psnr"] == third["not_run"]["csim_truth"] == "no ground truth"
    assert "psnr" not in third["metrics"]
    assert found["fvd"]["clips"] == 2
    features = [
        [small_i3d()(to_clip(images(folder / "case-1" / part)[k : k + 10]))[0].detach().numpy() for k in (0, 10)]
        for folder, part in ((folders["--results"], "animated_images"), (folders["--truth"], "truth"))
    ]
    assert found["fvd"]["value"] == pytest.approx(metrics.frechet_distance(*features), rel=1e-3)
    assert found["fvd"]["value"] > 1e-4
    assert found["settings"]["fvd_clip_frames"] == 10
    assert "torchmetrics" in found["versions"]
    assert found["not_run"] == {}

    lines = table.splitlines()
    assert re.split("  +", lines[0].strip())[:6] == ["case", "frames", "L1", "PSNR", "PSNR*", "SSIM"]
    row = next(line for line in lines if "case-10" in line)
    assert row.split()[:6] == ["case-10", "3", "–", "–", "–", "–"]
    assert f"{found['mean']['psnr']:.2f}" in next(line for line in lines if line.strip().startswith("mean"))
    assert "not run" not in table
    with (out / "case-2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(second["metrics"]["psnr"])
    assert "csim_driver" not in rows[0]


@pytest.mark.slow
def test_the_skeleton_error_sees_a_shift(monkeypatch, capsys, folders, networks):
    """The same marks moved by more than the thresholds, and skeletons that say where they were to be."""
    results = folders["--results"]
    for name, shift in (("case-1", 6), ("case-2", 10)):
        for path in (results / name / "animated_images").iterdir():
            path.unlink()
        (results / name / "animated_images").rmdir()
        write_frames(results / name / "animated_images", {"case-1": 20, "case-2": 4}[name], shift)
    people = People(np.zeros((0, 4)), np.zeros((0, 133, 2)), np.zeros((0, 133)))
    keypoints, scores = np.zeros((4, 134, 2)), np.zeros((4, 134))
    scores[:, :18] = 1
    keypoints[:, :18] = [[(8 + SHIFT + 2 * k) / SIZE[0], (5 + 5 * k) / SIZE[1]] for k in range(18)]
    keypoints[2] += 1  # a second person of frame 1: not the one that is followed
    drawn = Drawn(np.array([0, 1, 1, 2]), keypoints, scores, SIZE, 3)
    (folders["--truth"] / "case-10" / "poses").mkdir()
    Recording(None, None, [people] * 3, SIZE, 7.0, drawn=drawn).save(
        folders["--truth"] / "case-10" / "poses" / "keypoints.npz"
    )
    run(monkeypatch, capsys, {**folders, **networks})
    cases = json.loads((folders["--output_dir"] / "metrics.json").read_text())["cases"]
    found = {name: [cases[name]["metrics"][f"pck_{t}"] for t in (0.05, 0.1)] for name in cases}
    assert found == {"case-1": [0, 1], "case-2": [0, 0], "case-10": [1, 1]}


def test_faces(monkeypatch, capsys, folders, networks, tmp_path):
    """CSIM is the cosine of what insightface embeds; frames without a face are counted, not taken for 0."""
    inside = write_face_models(tmp_path / "inside", [(192, 320, 64)])  # so that the crop lies in the picture
    models = measures.Identity(str(inside), torch.device("cpu"))
    one, other = np.asarray(picture(0)), np.asarray(picture(5))
    assert metrics.cosine(models.embed(one), models.embed(one)) == pytest.approx(1)
    assert metrics.cosine(models.embed(one), models.embed(other)) < 0.999  # control
    swapped = metrics.cosine(models.embed(one), models.embed(np.ascontiguousarray(one[..., ::-1])))
    assert swapped < 0.999  # channel order matters, and embed takes RGB

    # The stand-in's embedding is a fixed matrix times the mean colour: a cosine in closed form for flat pictures.
    matrix = np.random.default_rng(0).standard_normal((3, 512))
    colours = np.array([[200, 60, 10], [30, 90, 220]])
    flat = [np.full((*SIZE[::-1], 3), colour, np.uint8) for colour in colours]
    expected = metrics.cosine(*((colours - 127.5) @ matrix))
    assert metrics.cosine(*map(models.embed, flat)) == pytest.approx(expected, abs=1e-4)
    assert metrics.cosine(models.embed(flat[0]), models.embed(flat[1][..., ::-1])) != pytest.approx(expected, abs=0.1)

    embed = measures.Identity.embed
    calls = []

    def sometimes(self, image):
        calls.append(1)
        return None if len(calls) % 4 == 2 else embed(self, image)

    monkeypatch.setattr(measures.Identity, "embed", sometimes)
    _, table, _ = run(monkeypatch, capsys, {**folders, **networks, "--cases": "case-2"})
    case = json.loads((folders["--output_dir"] / "metrics.json").read_text())["cases"]["case-2"]
    # Calls: the photo, four results of which the first has no face, four truths of which the first has none.
    assert case["frames_without_face"] == {"result": 1, "truth": 1}
    assert case["frames_measured"]["csim_photo"] == case["frames_measured"]["csim_truth"] == 3
    assert "no face found in 1 of 4 frames of the result" in table


def test_without_networks_the_table_says_so(monkeypatch, capsys, folders):
    status, table, _ = run(monkeypatch, capsys, folders)
    assert status == 0
    for heading, reason in (
        ("LPIPS", "--lpips_weights"),
        ("FVD", "--fvd_weights"),
        ("CSIM photo", "--face_models"),
        ("PCK@0.1", "--pose_models"),
    ):
        assert re.search(f"^{re.escape(heading)}: not run: .*{reason}", table, re.MULTILINE)
    found = json.loads((folders["--output_dir"] / "metrics.json").read_text())
    assert set(found["mean"]) == {"l1", "psnr", "psnr_disco", "ssim"}
    assert set(found["not_run"]) == {
        "lpips",
        "fvd",
        "csim_photo",
        "csim_truth",
        "csim_driver",
        "pck_0.05",
        "pck_0.1",
    }
    assert found["fvd"] is None


def test_equal_frames_and_too_few_clips(monkeypatch, capsys, folders, networks):
    status, table, _ = run(
        monkeypatch,
        capsys,
        {
            **folders,
            "--results": folders["--truth"] / "case-2" / "truth",
            "--truth": folders["--truth"] / "case-2",
            "--fvd_weights": networks["--fvd_weights"],
        },
    )
    assert status == 0
    found = json.loads((folders["--output_dir"] / "metrics.json").read_text())  # strict JSON: no Infinity
    assert found["mean"]["psnr"] == found["mean"]["psnr_disco"] == "inf"
    assert (found["mean"]["l1"], found["mean"]["ssim"]) == (0, pytest.approx(1))
    assert "FVD: not run: 0 clips of 16 frames" in table


def test_videos_are_read_and_truth_of_another_size_is_resized(monkeypatch, capsys, folders, tmp_path, caplog):
    result = tmp_path / "videos" / "case-2"
    frames = np.stack(images(folders["--truth"] / "case-2" / "truth"))
    with AnimationWriter(result, 4, 7, png=False, gif=False) as writer:
        writer.write(frames)
    for path in (folders["--truth"] / "case-2" / "truth").iterdir():
        Image.open(path).resize((128, 192)).save(path)
    status, _, log = run(monkeypatch, capsys, {**folders, "--results": result.parent, "--cases": "case-2"})
    assert status == 0
    assert "the ground truth of 128×192 is resized to the generated frames' 64×96" in log + caplog.text
    found = json.loads((folders["--output_dir"] / "metrics.json").read_text())
    assert 25 < found["mean"]["psnr"] < 50
    clip = result / "animation.mp4"
    run(monkeypatch, capsys, {**folders, "--results": clip, "--truth": clip})  # both a file: one case
    assert json.loads((folders["--output_dir"] / "metrics.json").read_text())["cases"]["animation"]["frames"] == 4
    (case,) = find_cases(clip, clip)
    expected = [np.asarray(case.result[i]) for i in (0, 1, 2, 3)]
    assert all(np.array_equal(np.asarray(case.result[i]), expected[i]) for i in (3, 1, 2, 2, 0))  # in any order
    status, _, message = run(monkeypatch, capsys, {**folders, "--results": __file__, "--truth": clip})
    assert (status, "not a readable video" in message) == (2, True)


def test_an_interrupted_evaluation_goes_on(monkeypatch, capsys, folders):
    """The second run measures only what the first did not, and ends with the same numbers."""
    measure = evaluation.measure_case
    names = []

    def stop_at_the_second(case, *args):
        names.append(case.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return measure(case, *args)

    monkeypatch.setattr(evaluation, "measure_case", stop_at_the_second)
    out = folders["--output_dir"]
    assert run(monkeypatch, capsys, folders)[0] == 130
    assert [path.name for path in out.iterdir()] == [".partial"]
    assert run(monkeypatch, capsys, folders)[0] == 0
    assert names == ["case-1", "case-2", "case-2", "case-10"]
    continued = json.loads((out / "metrics.json").read_text())["cases"]
    assert not (out / ".partial").exists()
    run(monkeypatch, capsys, folders)
    assert json.loads((out / "metrics.json").read_text())["cases"] == continued

    names.clear()
    assert run(monkeypatch, capsys, folders)[0] == 130
    (folders["--results"] / "case-1" / "animated_images" / "frame_0.png").touch()  # another file now: measured again
    run(monkeypatch, capsys, folders)
    assert names == ["case-1", "case-2", "case-1", "case-2", "case-10"]


def test_networks_that_no_flag_names_are_found(monkeypatch, capsys, folders, networks):
    """Those of the checkpoints that are there, of the settings' own names."""
    found = layout.Checkpoints(
        *[Path("nowhere")] * 5, dwpose=networks["--pose_models"], face_models=networks["--face_models"]
    )
    monkeypatch.setattr(layout, "find_checkpoints", lambda *_: found)
    run(monkeypatch, capsys, {**folders, "--cases": "case-2"})
    metrics_json = json.loads((folders["--output_dir"] / "metrics.json").read_text())
    assert {"csim_photo", "pck_0.1"} <= set(metrics_json["mean"])
    assert metrics_json["settings"]["pose_models"] == str(networks["--pose_models"])


def test_the_contact_sheet_shows_what_there_is(folders):
    cases = find_cases(folders["--results"], folders["--truth"])
    blocks = {case.name: case_block(case) for case in cases}
    rows = {name: [(row, len(images)) for row, images in block.rows.items()] for name, block in blocks.items()}
    assert rows["case-1"] == [("driver", 6), ("result", 6), ("truth", 6)]
    assert rows["case-2"] == [("poses", 4), ("result", 4), ("truth", 4)]
    assert rows["case-10"] == [("driver", 3), ("result", 3)]
    assert list(blocks["case-10"].times) == ["frame 0", "frame 1", "frame 2"]
    assert 8 * THUMB < contact_sheet(cases).height < 12 * THUMB


def test_the_contact_sheet_tells_the_time(folders, tmp_path):
    with AnimationWriter(tmp_path / "videos" / "case-2", 4, 8, png=True, gif=False) as writer:
        writer.write(np.stack(images(folders["--truth"] / "case-2" / "truth")))
    (case,) = find_cases(tmp_path / "videos", folders["--truth"], ["case-2"])
    assert case_block(case).times == ["0.00 s", "0.12 s", "0.25 s", "0.38 s"]


BAD = [
    ({"--results": "nowhere"}, "--results nowhere: no such folder"),
    ({"--truth": "nowhere"}, "--truth nowhere: no such folder"),
    ({"--cases": "case-3"}, "--cases case-3: not in"),
    ({"--max_frames": 0}, "--max_frames 0 is below 1"),
    ({"--fvd_clip_frames": 8}, "--fvd_clip_frames 8 is below 9"),
    ({"--lpips_weights": "nowhere.pth"}, "--lpips_weights nowhere.pth: no such file"),
    ({"--fvd_weights": __file__}, "not a torch weights file"),
    ({"--face_models": "nowhere"}, "the face models"),
    ({"--pose_models": "nowhere"}, "nowhere/yolox_l.onnx: no such file"),
    ({"--output_dir": __file__}, "cannot be written to"),
    ({"--device": "cuda:99"}, "--device cuda:99"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD, ids=lambda value: next(iter(value), "") if value else "")
def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, folders, changes, reason):
    status, _, message = run(monkeypatch, capsys, {**folders, **changes})
    assert status == 2
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert reason in errors[0]
    assert "Traceback" not in message
    assert not Path(folders["--output_dir"]).exists()


def test_folders_that_do_not_fit_are_refused(folders, tmp_path):
    results, truth = folders["--results"], folders["--truth"]
    (results / "case-1").rename(results / "elsewhere")
    with pytest.raises(InputError, match=r"1 of 3 cases are not there \(case-1\)"):
        find_cases(results, truth)
    assert [case.name for case in find_cases(results, truth, ["case-10", "case-2"])] == ["case-10", "case-2"]
    (results / "case-2" / "animated_images" / "frame_3.png").unlink()
    with pytest.raises(InputError, match=r"case case-2: 3 generated frames, but 4 of the truth; .* --max_frames 3"):
        find_cases(results, truth, ["case-2"])
    assert len(find_cases(results, truth, ["case-2"], max_frames=3)[0]) == 3
    picture(0).resize((32, 32)).save(results / "case-2" / "animated_images" / "frame_3.png")
    with pytest.raises(InputError, match="frames of 2 sizes"):
        find_cases(results, truth, ["case-2"])
    with pytest.raises(InputError, match="no cases there"):
        find_cases(results, tmp_path / "inference" / "notes")
    (results / "case-10" / "animated_images").rename(results / "case-10" / "other")
    with pytest.raises(InputError, match="no generated frames there"):
        find_cases(results, truth, ["case-10"])
    path = truth / "case-2" / "poses" / "keypoints.npz"
    picture(0).save(results / "case-2" / "animated_images" / "frame_3.png")
    Recording(None, None, [], SIZE, 7.0).save(path)
    with pytest.raises(InputError, match="skeletons of 0 frames for 4 generated ones"):
        find_cases(results, truth, ["case-2"])
    path.write_bytes(b"junk")
    with pytest.raises(InputError, match="not a file of key points"):
        find_cases(results, truth, ["case-2"])


def test_cases_are_named_one_after_another():
    given = parse(EvaluationSettings, None, ["--results=a", "--truth=b", "--output_dir=c", "--cases", "case-1", "x"])
    assert given == EvaluationSettings(results="a", truth="b", output_dir="c", cases=["case-1", "x"])


def test_after_the_quick_start_the_line_says_which_names_must_match(tmp_path):
    """What command_basic_infer.sh leaves is named as no case. Beside the shipped cases lies a driver."""
    shipped = Path(__file__).parents[1] / "inference"
    assert (shipped / "driver.mp4").is_file()
    write_frames(tmp_path / "basic" / "animated_images", 2)
    with pytest.raises(InputError) as error:
        find_cases(tmp_path, shipped)
    message = str(error.value)
    assert "3 of 3 cases are not there (case-1, case-2, case-3); it has basic" in message
    assert "found by their case's name" in message
    assert f"into {tmp_path / 'case-1'}" in message
    cases = find_cases(shipped / "case-1" / "truth", shipped / "case-1")
    assert [case.name for case in cases] == ["case-1"]


def test_a_driver_alone_is_a_case(folders, tmp_path):
    (tmp_path / "case-x").mkdir()
    (tmp_path / "case-x" / "driver.mp4").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"driver.mp4: not a readable video"):
        find_cases(folders["--results"] / "case-2", tmp_path / "case-x")


def test_pck_with_dwpose(reference, folders):
    """The recorded stand-in networks: the same frames give 1, moved ones less."""
    folder = reference / "dwpose" / "same_aspect" / "checkpoints" / "DWPose"
    skeleton = measures.Skeleton(str(folder), torch.device("cpu"))
    frame = np.asarray(Image.open(reference / "dwpose" / "same_aspect" / "reference.png").convert("RGB"))
    case = find_cases(folders["--results"], folders["--truth"], ["case-2"])[0]
    case.result = [Image.fromarray(frame)]
    for result, least, most in ((frame, 1, 1), (np.roll(frame, frame.shape[0] // 4, axis=0)[::-1].copy(), 0, 0.7)):
        chunk = measures.Chunk(case=case, start=0, result=result[None], truth=frame[None], driver=None)
        (value,) = skeleton.values(chunk)["pck_0.05"]
        assert least <= value <= most
