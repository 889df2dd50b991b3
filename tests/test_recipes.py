import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from animation.errors import InputError
from animation.flags import parse
from animation.modules.attention_processor import IDAdapterAttnProcessor
from animation.modules.unet import PoseGuidedUNet
from animation.training.settings import TrainingSettings
from DWPose.detector import PersonDetector
from recipes import __main__ as every
from recipes import animation, card, detectors, fast_modes, figures, loop, pose_estimator, recogniser, vae, videos
from recipes.animation import UNET
from recipes.figures import ablation
from tests.processes import posix
from tests.waiting import wait_until


def arguments(folder, steps):
    return argparse.Namespace(
        state=folder,
        steps=steps,
        batch_size=4,
        learning_rate=5e-2,
        workers=0,
        device="cpu",
        export_only=False,
        mixed_precision="no",
    )


def make_number(number):
    return {"x": np.random.default_rng(number).standard_normal(3).astype(np.float32)}


def squared(model, batch):
    return {"error": (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()}


def trained(folder, *stops):
    for steps in stops:
        torch.manual_seed(0)
        model = loop.train("line", nn.Linear(3, 1), squared, make_number, arguments(folder, steps))
    return model


def test_training_is_reproducible_learns_and_keeps_a_log(tmp_path):
    first, second = trained(tmp_path / "a", 300), trained(tmp_path / "b", 300)
    torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=0)
    lines = [json.loads(line) for line in (tmp_path / "a" / "line.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert lines[-1]["error"] < 0.1 * lines[0]["error"]


def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", 40)
    calls = []

    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == 13:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return squared(model, batch)

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        loop.train("line", nn.Linear(3, 1), interrupted, make_number, arguments(tmp_path / "cut", 40))
    model = trained(tmp_path / "cut", 40)
    torch.testing.assert_close(model.weight, whole.weight, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["person", "face"])
def test_detector_samples_and_loss(kind):
    samples = [detectors.make_sample(kind, number) for number in range(4)]
    np.testing.assert_array_equal(samples[0]["image"], detectors.make_sample(kind, 0)["image"])
    batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
    assert batch["image"].shape == (4, 3, 160, 160)
    assert (batch["boxes"][:, 0, 2:] > batch["boxes"][:, 0, :2]).any()
    torch.manual_seed(0)
    model = detectors.Detector()
    losses = detectors.detection_loss(kind, model, batch)
    assert set(losses) == {"score", "box", *(["landmarks"] if kind == "face" else [])}
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(15):
        optimizer.zero_grad()
        loss = sum(detectors.detection_loss(kind, model, batch).values())
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * sum(losses.values())


def test_yolox_outputs_mean_what_the_detector_reads():
    """One confident cell whose distances are known comes out as its box."""

    class OneCell(nn.Module):
        def forward(self, images):
            grids = [torch.full((1, 15, 640 // s, 640 // s), -9.0) for s in detectors.STRIDES]
            grids[1][0, :5, 7, 11] = torch.tensor([9.0, *np.log([2.0, 3.0, 4.0, 5.0])])
            return grids

    output = detectors.AsYolox(OneCell())(torch.zeros(1, 3, 640, 640))
    assert output.shape == (1, 8400, 85)
    reader = PersonDetector.__new__(PersonDetector)
    from DWPose.detector import _grid

    reader.grid, reader.strides = _grid(640)
    (box,) = reader._people(output[0].numpy(), 1.0)
    np.testing.assert_allclose(box, [(11 - 2) * 16, (7 - 3) * 16, (11 + 4) * 16, (7 + 5) * 16], rtol=1e-5)


def test_pose_samples_and_outputs():
    sample = pose_estimator.make_sample(3)
    assert sample["image"].shape == (3, 384, 288)
    assert sample["keypoints"].shape == (133, 2)
    assert sample["present"].any()
    torch.manual_seed(0)
    model = pose_estimator.TinyPose()
    losses = pose_estimator.simcc_loss(model, {key: torch.from_numpy(value)[None] for key, value in sample.items()})
    assert all(torch.isfinite(loss) for loss in losses.values())
    columns, rows = pose_estimator.AsDwpose(model.eval())(torch.zeros(1, 3, 384, 288))
    assert (columns.shape, rows.shape) == ((1, 133, 576), (1, 133, 768))
    torch.testing.assert_close(columns.amax(-1), rows.amax(-1))
    assert columns.max() <= 1


def test_the_arithmetic_of_fast_modes(monkeypatch):
    monkeypatch.setattr(fast_modes, "unet_tflop", lambda whole: 20.0 if whole else 8.0)
    assert fast_modes.arithmetic({}) == (38 * 25 * 2, 38 * 25 * 2 * 20)
    assert fast_modes.arithmetic({"num_inference_steps": 10, "schedule": "ays"}) == (760, 760 * 20)
    assert fast_modes.arithmetic({"cache": 2}) == (1900, 38 * 2 * (13 * 20 + 12 * 8))
    sigmas = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    calls = sum(38 * (1 + (0.5 <= sigma <= 50)) for sigma in sigmas)
    ays = {"num_inference_steps": 10, "schedule": "ays"}
    assert fast_modes.arithmetic(ays | fast_modes.INTERVAL)[0] == calls
    standard, fast = (fast_modes.arithmetic(fast_modes.MODES[name])[1] for name in ("standard", "fast"))
    assert fast < standard / 3.5


@pytest.mark.slow
def test_the_released_unet_with_cached_deep_layers_does_under_half_of_the_work():
    whole, cached = fast_modes.unet_tflop(True), fast_modes.unet_tflop(False)
    assert 18 < whole < 21  # 16 frames of 512×512
    assert 0.3 < cached / whole < 0.5


def test_the_front_holds_what_nothing_is_better_and_cheaper_than(tmp_path):
    def point(tflop, quality):
        return {"tflop": tflop, "psnr": quality, "csim_photo": quality / 100}

    found = {"standard": point(9, 24), "fast": point(2, 23), "cheap": point(1, 20), "poor": point(3, 22)}
    assert fast_modes.draw(found, tmp_path / "plot.png") == ["cheap", "fast", "standard"]
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_flicker_is_of_what_stands_still():
    truth = np.zeros((3, 4, 4, 3), np.uint8)
    truth[1:, 0] = 200  # the first row moves once
    frames = truth.copy()
    frames[1, 1:] += 6  # 12 of 16 pixels flicker there and back; the first row stands still in the second change
    np.testing.assert_allclose(videos.still_flicker(frames, truth), (12 * 6 + 12 * 6) / (12 + 16))
    assert videos.still_flicker(truth, truth) == 0


def test_figures_have_their_spread_and_become_the_card(tmp_path):
    found = figures.with_spread([{"psnr": 24.0, "pck_0.1": 0.9}, {"psnr": 26.0, "pck_0.1": 0.9}])
    assert found == {"psnr": [25.0, 1.4142], "pck_0.1": [0.9, 0.0]}
    settings = {"settings": {"cases": 20, "seeds": 2, "steps": 6}}
    path = tmp_path / "README.md"
    path.write_text(f"before\n{card.BEGIN}\nold\n{card.END}\nafter\n")
    for _ in range(2):
        card.write_card({"same/whole": settings | found, "same/copy": settings | {"psnr": [20.0, 0.0]}}, path)
    text = path.read_text()
    assert text.startswith(f"before\n{card.BEGIN}\n")
    assert text.endswith(f"{card.END}\nafter\n")
    assert "| whole | 25.00 ± 1.41 | – | 0.900 | – |" in text
    assert "| the photo copied into every frame | 20.00 | – | – | – |" in text
    assert "Numbers: cases 20, seeds 2, steps 6." in text
    assert "old" not in text
    path.write_text("no place\n")
    with pytest.raises(InputError, match="holds no place"):
        card.write_card({}, path)


def test_one_command_runs_every_recipe_in_order(monkeypatch):
    ran = []
    monkeypatch.setattr(every.sys, "argv", ["recipes", "--output", "out"])

    def run_command(command):
        ran.append(command)
        if len(ran) == 3:
            raise SystemExit(1)

    monkeypatch.setattr(every, "run_command", run_command)
    with pytest.raises(SystemExit):
        every.main()
    assert [command[2] for command in ran] == ["recipes.detectors", "recipes.pose_estimator", "recipes.detectors"]
    assert all(command[-4:] == ["--output", "out", "--state", "recipes/state"] for command in ran)
    names = [command[2].split(".")[1] for command in every.commands()]
    assert names[-1] == "animation"
    assert {f"{name}.py" for name in names} <= {path.name for path in Path(every.__file__).parent.glob("*.py")}


def test_a_finetuned_vae_learns_and_leaves_the_latents_as_they_are(tmp_path, monkeypatch):
    shipped, folder = Path(vae.__file__).parents[1] / vae.FOLDER, tmp_path / vae.FOLDER
    shutil.copytree(shipped, folder)
    flags = "--steps 2 --batch_size 1 --learning_rate 0.1 --workers 0 --mixed_precision no --finetune"
    monkeypatch.setattr(sys, "argv", ["vae", "--output", str(tmp_path), "--state", str(tmp_path), *flags.split()])
    vae.main()
    before, after = (load_file(path / "diffusion_pytorch_model.safetensors") for path in (shipped, folder))
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {"decoder"}
    assert vae.make_sample(3)["images"].shape == (4, 3, vae.CROP, vae.CROP)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recipe_waits_for_what_it_runs(number, tmp_path):
    """Until that has kept its state: both get the signal from a terminal, SIGTERM is passed on."""
    child = """if True:
        import pathlib, signal, sys, time
        def keep(*_):
            time.sleep(0.5)  # longer than Python's own subprocess.run waits
            pathlib.Path("kept").touch()
            sys.exit(130)
        signal.signal(signal.SIGINT, keep), signal.signal(signal.SIGTERM, keep)
        pathlib.Path("ready").touch()
        time.sleep(60)"""
    script = f"import sys; from recipes.loop import run_command; run_command([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"PYTHONPATH": str(Path(every.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, start_new_session=True)
    wait_until((tmp_path / "ready").is_file, 120, by=process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
    assert process.wait(60) == 130
    assert (tmp_path / "kept").is_file()


def test_the_stages_of_the_animation_are_commands_that_training_reads(tmp_path):
    args = argparse.Namespace(output=tmp_path, work=tmp_path, processes=2, steps=None, frames_per_step=60)
    vars(args).update(learning_rate=8e-4, checkpointing_steps=9, mixed_precision="no", finetune=True)
    for stage, (frames, steps, share, _) in animation.STAGES.items():
        command = animation.training_command(args, stage, tmp_path / "weights")
        assert command[1:6] == ["-m", "animation.launch", "--multi_gpu", "--num_processes", "2"]
        settings = parse(TrainingSettings, None, command[command.index("train.py") + 1 :])
        assert (settings.sample_n_frames, settings.max_train_steps) == (frames, steps)
        assert settings.per_gpu_batch_size == {4: 7, 15: 2, 8: 3}[frames]  # of two processes
        assert settings.learning_rate == pytest.approx(8e-4 * share)
        assert settings.finetune_mode and settings.optimizer == "muon"
        assert settings.conditioning_dropout_prob == 0.01
        assert settings.unet_model_finetune_path == str(tmp_path / "weights" / "unet.safetensors")
    args.frames_per_step, args.processes, args.finetune = 32, 4, False  # fewer than a whole window for each process
    from_nothing = animation.training_command(args, "whole", None)
    assert {"--per_gpu_batch_size=1", "--conditioning_dropout_prob=0.05"} <= set(from_nothing)
    assert not any("finetune" in flag for flag in animation.training_command(args, "short", None))
    for number in (9, 10):
        (tmp_path / "short" / f"checkpoint-{number}").mkdir(parents=True)
    assert animation.last_checkpoint(tmp_path, ["short", "polish"]).name == "checkpoint-10"
    with pytest.raises(InputError, match="holds no checkpoint"):
        animation.last_checkpoint(tmp_path, ["polish"])


def test_recogniser_sample():
    sample = recogniser.make_sample(5)
    assert sample["image"].shape == (3, 112, 112)
    assert 0 <= sample["who"] < recogniser.PEOPLE


def test_ablations_take_away_what_they_say():
    """On a UNet of two blocks, against the adapter's equations; afterwards it is as before."""
    torch.manual_seed(0)
    unet = PoseGuidedUNet(**UNET).eval()
    before = unet.attn_processors
    name = next(name for name, processor in before.items() if isinstance(processor, IDAdapterAttnProcessor))
    attn = unet.get_submodule(name.removesuffix(".processor"))
    states, tokens = torch.randn(2, 9, attn.to_q.in_features), torch.randn(1, 5, 128).expand(2, 5, 128)
    adapter = attn.processor
    image = attn.to_v(tokens[:, :1])

    def heads(rows):
        return torch.stack(rows.chunk(attn.heads, dim=-1), dim=1)

    weights = heads(attn.to_q(states)) @ heads(adapter.id_to_k(tokens[:, 1:])).mT * attn.scale
    face = torch.cat(list((weights.softmax(-1) @ heads(adapter.id_to_v(tokens[:, 1:]))).unbind(1)), dim=-1)
    expected = {"no_face_tokens": image.expand_as(face), "no_alignment": image + face}
    with torch.no_grad():
        whole = attn.processor(attn, states, tokens)
        for variant, features in expected.items():
            with ablation(unet, variant):
                found = attn.processor(attn, states, tokens).expand_as(whole)
            torch.testing.assert_close(found, attn.to_out[0](features), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found, whole, rtol=1e-2)  # the control
        with ablation(unet, "whole"):
            torch.testing.assert_close(attn.processor(attn, states, tokens), whole, rtol=0, atol=0)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
