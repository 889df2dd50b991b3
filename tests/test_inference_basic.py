"""The script as a user runs it: results, bad input, failures at work, interrupts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from animation import cli
from animation import run as inference
from animation.commands import inference_basic
from animation.errors import InputError
from animation.flags import Parser, add_flags
from animation.settings import InferenceSettings
from tests.conftest import checkpoint_flags
from tests.face_models import write_face_models

ROOT = Path(__file__).parents[1]
RELEASED_FLAGS = """
    pretrained_model_name_or_path validation_image validation_control_folder output_dir height width guidance_scale
    num_inference_steps posenet_model_name_or_path face_encoder_model_name_or_path unet_model_name_or_path tile_size
    overlap frames_overlap noise_aug_strength gradient_checkpointing revision decode_chunk_size
"""


@pytest.fixture
def flags(checkpoint, case, tmp_path):
    """A small run: two steps of eight frames of 64×64."""
    return {
        "--validation_image": case / "reference.png",
        "--validation_control_folder": case / "poses",
        "--face_embedding": case / "face_embedding.npy",
        "--output_dir": tmp_path / "out",
        "--height": 64,
        "--width": 64,
        "--num_inference_steps": 2,
        "--tile_size": 4,
        "--frames_overlap": 1,
        "--device": "cpu",
        **dict(zip(*[iter(checkpoint_flags(checkpoint))] * 2, strict=True)),
    }


def run(monkeypatch, capsys, flags):
    """Run the script in this process: its exit status and what it printed to standard error."""
    arguments = [str(part) for pair in flags.items() for part in pair if part is not None]
    monkeypatch.setattr(sys, "argv", ["inference_basic.py", *arguments])
    status = 0
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run(inference_basic.main)
    except SystemExit as error:
        status = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, capsys.readouterr().err


def pngs(folder):
    return [path.read_bytes() for path in sorted((folder / "animated_images").glob("frame_*.png"))]


def test_a_run_writes_everything(monkeypatch, capsys, flags):
    status, _ = run(monkeypatch, capsys, {**flags, "--fps": 12})
    out = flags["--output_dir"]
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "animated_images",
        "animated_images.gif",
        "animation.mp4",
        "run.json",
    ]
    assert sorted(path.name for path in (out / "animated_images").iterdir()) == [f"frame_{i}.png" for i in range(8)]
    with av.open(str(out / "animation.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames, stream.width) == (12, 8, 64)
    facts = json.loads((out / "run.json").read_text())
    assert facts["settings"]["seed"] == 23123134
    assert facts["settings"]["guidance_scale"] == 3.0
    assert set(facts["settings"]) == {field.name for field in fields(InferenceSettings)}
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert set(facts["seconds"]) == {"load", "face_embedding", "encode", "denoise", "decode_and_write"}
    assert facts["peak_memory_bytes"]["host"] > 10**8
    assert facts["outputs"] == ["animated_images", "animated_images.gif", "animation.mp4"]
    assert (facts["face_found"], facts["num_frames"], facts["face_channel_order"]) == (True, 8, "rgb")
    used = {Path(name).name: facts["files"][name] for name in facts["files"]}
    assert {
        "unet.pth",
        "pose_net.pth",
        "face_encoder.pth",
        "reference.png",
        "frame_7.png",
        "face_embedding.npy",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    } <= set(used)
    unet = Path(flags["--unet_model_name_or_path"])
    assert used["unet.pth"]["bytes"] == unet.stat().st_size
    assert re.fullmatch("[0-9a-f]{64}", used["unet.pth"]["sha256"])


@pytest.mark.slow
def test_two_runs_give_identical_bytes_and_another_seed_others(monkeypatch, capsys, flags, tmp_path):
    results = []
    for i, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(i)
        run(monkeypatch, capsys, {**flags, "--output_dir": out, "--seed": seed, "--no_gif": None})
        assert not (out / "animated_images.gif").exists()
        results.append(pngs(out))
    assert len(results[0]) == 8
    assert results[0] == results[1]
    assert all(first != other for first, other in zip(results[0], results[2], strict=True))


@pytest.mark.slow
def test_levers_do_not_change_the_frames(monkeypatch, capsys, flags, tmp_path):
    videos = []
    for i, extra in enumerate(
        (
            {},
            {"--cfg_batch": 2},
            {"--vae_device": "cpu"},
            {"--overlap": 3, "--gradient_checkpointing": None, "--revision": "main"},
        )
    ):
        out = tmp_path / str(i)
        run(monkeypatch, capsys, {**flags, "--output_dir": out, **extra})
        paths = sorted((out / "animated_images").iterdir())
        videos.append(np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int))
    for video in videos[1:]:
        assert np.abs(video - videos[0]).max() <= 1


@pytest.mark.slow
def test_a_photo_or_poses_of_another_shape_are_told(monkeypatch, capsys, caplog, flags):
    """Those of the case are 64×128."""
    for height, told in ((64, True), (128, False)):
        caplog.clear()
        run(monkeypatch, capsys, {**flags, "--height": height, "--num_inference_steps": 1})
        assert ("a photo of 64×128 (width × height) stretched to 64×64; crop it to this shape" in caplog.text) is told
        assert ("poses of 64×128 (width × height) stretched to 64×64" in caplog.text) is told


@pytest.mark.slow
def test_the_photos_face_is_embedded(monkeypatch, capsys, flags, tmp_path):
    del flags["--face_embedding"]
    status, message = run(monkeypatch, capsys, flags)
    assert (status, "download the folder antelopev2" in message) == (2, True)
    models = write_face_models(tmp_path / "antelopev2")
    results = []
    for order in ("rgb", "bgr"):
        status, _ = run(monkeypatch, capsys, {**flags, "--face_models": models, "--face_channel_order": order})
        assert status == 0
        results.append(pngs(flags["--output_dir"]))
    facts = json.loads((flags["--output_dir"] / "run.json").read_text())
    assert facts["face_channel_order"] == "bgr"
    assert any(name.endswith("glintr100.onnx") for name in facts["files"])
    assert results[0] != results[1]


def test_every_released_flag_is_known_and_defaults_are_real():
    parser = Parser(inference_basic.__doc__)
    add_flags(parser, InferenceSettings)
    known = {action.dest for action in parser._actions}
    assert set(RELEASED_FLAGS.split()) <= known
    assert known - {"help"} == {field.name for field in fields(InferenceSettings)} | set(InferenceSettings.RETIRED)
    text = re.sub(r"\s+", " ", parser.format_help())
    for default in ("(default: 23123134)", "left out, 25", "left out, 3,", "trained for, 1024", "(default: 0.02)"):
        assert default in text
    for group in ("inputs and outputs:", "weights (left out:", "sampling:", "speed and memory"):
        assert group in text
    assert "accepted, with nothing to do: --overlap […] see --frames_overlap --gradient_checkpointing […]" in text


BAD = [
    ({"--validation_image": "nowhere.png"}, "no such photo"),
    ({"--validation_image": __file__}, "not a readable image"),
    ({"--validation_control_folder": "nowhere"}, "no such folder"),
    ({"--height": 500}, "the nearest valid height is 448 or 512"),
    ({"--width": -64}, "the nearest valid width is 64"),
    ({"--tile_size": 1}, "--tile_size 1 is below 2"),
    ({"--frames_overlap": 4}, "--frames_overlap 4 is not below --tile_size 4"),
    ({"--frames_overlap": -1}, "--frames_overlap -1 is below 0"),
    ({"--num_inference_steps": 0}, "--num_inference_steps 0 is below 1"),
    ({"--decode_chunk_size": 0}, "--decode_chunk_size 0 is below 1"),
    ({"--max_frames": 0}, "--max_frames 0 is below 1"),
    ({"--fps": 0}, "--fps 0.0 is not above 0"),
    ({"--noise_aug_strength": "inf"}, "--noise_aug_strength inf is not a finite number"),
    ({"--motion_bucket_id": "inf"}, "--motion_bucket_id inf is not a finite number"),
    ({"--guidance_scale": "nan"}, "--guidance_scale nan is not a finite number"),
    ({"--noise_aug_strength": "nan"}, "--noise_aug_strength nan is not a finite number"),
    ({"--seed": -1}, "--seed -1 is below 0"),
    ({"--seed": 2**64}, "is above 9223372036854775807"),
    ({"--face_embedding": "nowhere.npy"}, "no such face embedding"),
    ({"--output_dir": __file__}, "cannot be written to"),
    ({"--device": "cuda:99"}, "--device cuda:99"),
    ({"--dtype": "fp16"}, "fp16 on a CPU"),
    ({"--offload": "model"}, "--offload model"),
    ({"--attention": "xformers"}, "--attention xformers"),
    ({"--unet_model_name_or_path": "nowhere.pth"}, "nowhere.pth: no such file"),
    ({"--pretrained_model_name_or_path": "nowhere"}, "model_index.json not found"),
    ({"--vae": "nowhere"}, "nowhere"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), BAD, ids=lambda value: "".join(value) if isinstance(value, dict) else ""
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, flags, changes, reason):
    status, message = run(monkeypatch, capsys, {**flags, **changes})
    assert status == 2
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message.strip().endswith(errors[0])
    assert reason in errors[0]
    assert "Traceback" not in message
    assert not Path(flags["--output_dir"]).exists()


def test_bad_input_in_a_shell(flags):
    """The same through the operating system: no traceback, status 2."""
    arguments = [str(part) for pair in {**flags, "--height": 65}.items() for part in pair]
    result = subprocess.run(
        [sys.executable, "inference_basic.py", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 2
    assert result.stderr == "error: height 65 is not a multiple of 64; the nearest valid height is 64 or 128\n"


def test_out_of_memory_names_the_levers(monkeypatch, capsys, flags):
    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(inference.AnimationPipeline, "denoise", fail)
    status, message = run(monkeypatch, capsys, flags)
    assert status == 1
    assert (
        "error: out of memory on cpu; in this order, these would help: --cfg_batch 1, --decode_chunk_size 2" in message
    )
    assert not flags["--output_dir"].exists()


def test_nan_is_an_error(monkeypatch, capsys, flags, case, checkpoint, tmp_path):
    state = torch.load(checkpoint / "Animation" / "unet.pth", weights_only=True)
    state["conv_out.bias"] = state["conv_out.bias"] * float("nan")
    torch.save(state, tmp_path / "unet.pth")
    status, message = run(monkeypatch, capsys, {**flags, "--unet_model_name_or_path": tmp_path / "unet.pth"})
    assert status == 1
    assert "error: the latents hold NaN or infinity after step 1 of 2" in message
    assert not flags["--output_dir"].exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX shell")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_earlier_result_whole(flags, sign):
    out = flags["--output_dir"]
    out.mkdir()
    (out / "animation.mp4").write_text("earlier")
    arguments = [str(part) for pair in {**flags, "--num_inference_steps": 5000}.items() for part in pair]
    process = subprocess.Popen(
        [sys.executable, "inference_basic.py", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    seen = b""
    deadline = time.monotonic() + 120
    while b"denoising" not in seen and time.monotonic() < deadline:
        seen += os.read(process.stderr.fileno(), 1000)
    process.send_signal(sign)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert b"Traceback" not in rest
    assert rest.endswith(b"error: interrupted; nothing half-written was left\n")
    assert [path.name for path in out.iterdir()] == ["animation.mp4"]
    assert (out / "animation.mp4").read_text() == "earlier"


def test_settings_are_usable_from_python(flags):
    settings = InferenceSettings(
        validation_image="a", validation_control_folder="b", output_dir="c", height=100, width=64
    )
    with pytest.raises(InputError, match="height 100"):
        settings.read_inputs()
