"""Checkpoints load strictly through one reader; each kind of bad file has its own clear message."""

import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from animation.errors import CheckpointError
from animation.weights import loading
from tests.conftest import checkpoint_paths
from tests.synthetic import SVD_FOLDER


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A checkpoint that a test may spoil."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoints")


def unet_file(folder):
    return folder / "Animation" / "unet.pth"


def message(call, *arguments):
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_components_load_frozen_whole_and_in_the_asked_format(checkpoint):
    for dtype in (torch.float32, torch.bfloat16):
        components = loading.load_components(**checkpoint_paths(checkpoint), dtype=dtype)
        for name in ("unet", "pose_net", "face_encoder", "vae", "image_encoder"):
            tensors = [*components[name].parameters(), *components[name].buffers()]
            assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
            assert {parameter.dtype for parameter in components[name].parameters()} == {dtype}
            assert not components[name].training


@pytest.mark.slow
def test_values_are_those_of_the_file(checkpoint, components):
    loaded = loading.load_components(**checkpoint_paths(checkpoint))
    for name in ("unet", "pose_net", "face_encoder", "vae", "image_encoder"):
        for key, tensor in components[name].state_dict().items():
            assert torch.equal(loaded[name].state_dict()[key], tensor), (name, key)


def test_safetensors_twin_old_torch_format_and_half_variant(copy):
    animation, vae = copy / "Animation", copy / "SVD" / SVD_FOLDER / "vae"
    state = torch.load(unet_file(copy), weights_only=True)
    save_file(state, animation / "unet.safetensors")
    unet_file(copy).unlink()
    pose_net = torch.load(animation / "pose_net.pth", weights_only=True)
    torch.save(pose_net, animation / "pose_net.pth", _use_new_zipfile_serialization=False)
    full = load_file(vae / "diffusion_pytorch_model.safetensors")
    half = {name: tensor.half() + 1 for name, tensor in full.items()}
    save_file(half, vae / "diffusion_pytorch_model.fp16.safetensors")
    loaded = loading.load_components(**checkpoint_paths(copy))
    assert torch.equal(loaded["unet"].state_dict()["conv_in.weight"], state["conv_in.weight"])
    assert torch.equal(loaded["pose_net"].state_dict()["scale"], pose_net["scale"])
    name = next(iter(full))
    assert torch.equal(loading.load_vae(vae).state_dict()[name], full[name])
    assert torch.equal(loading.load_vae(vae, torch.float16).state_dict()[name], half[name])
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    assert torch.equal(loading.load_vae(vae).state_dict()[name], half[name].float())


def test_svd_folder_in_all_its_layouts(copy, tmp_path, monkeypatch):
    inner = copy / "SVD" / SVD_FOLDER
    assert loading.resolve_svd_folder(copy / "SVD") == inner
    assert loading.resolve_svd_folder(inner) == inner
    flat = shutil.move(inner, tmp_path / "flat")
    assert loading.resolve_svd_folder(flat / SVD_FOLDER) == flat
    assert "model_index.json not found" in message(loading.resolve_svd_folder, copy / "SVD")
    cached = []
    monkeypatch.setattr(loading, "snapshot_download", lambda name, **kwargs: cached.append((name, kwargs)) or flat)
    monkeypatch.chdir(tmp_path)
    assert loading.resolve_svd_folder(f"stabilityai/{SVD_FOLDER}", "main") == flat
    assert cached == [(f"stabilityai/{SVD_FOLDER}", {"revision": "main", "local_files_only": True})]


def test_the_svd_unets_own_weights_are_never_read(checkpoint):
    assert not list((checkpoint / "SVD" / SVD_FOLDER / "unet").glob("*.safetensors"))
    loading.load_unet(unet_file(checkpoint), checkpoint / "SVD")


def test_tensors_missing_left_over_or_of_another_shape(copy):
    state = torch.load(unet_file(copy), weights_only=True)
    spoiled = dict(state)
    del spoiled["conv_in.bias"]
    spoiled["extra.weight"] = torch.ones(1)
    spoiled["conv_out.bias"] = torch.ones(7)
    torch.save(spoiled, unet_file(copy))
    text = message(loading.load_unet, unet_file(copy), copy / "SVD")
    assert str(unet_file(copy)) in text
    assert "1 tensors missing (conv_in.bias)" in text
    assert "1 left over (extra.weight)" in text
    assert "1 of another shape (conv_out.bias: [4] expected, [7] found)" in text
    config = copy / "SVD" / SVD_FOLDER / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 32}))
    torch.save(state, unet_file(copy))
    text = message(loading.load_unet, unet_file(copy), copy / "SVD")
    assert "of another shape" in text
    assert text.count("expected") == 3  # the first few are named, not hundreds


def test_weights_of_another_model_are_recognised(copy):
    animation = copy / "Animation"
    state = torch.load(unet_file(copy), weights_only=True)
    plain = {name: tensor for name, tensor in state.items() if ".id_to_" not in name}
    mimic_motion = {f"unet.{name}": tensor for name, tensor in plain.items()} | {"pose_net.scale": torch.ones(1)}
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    for spoiled, hint in (
        (plain, "a plain SVD UNet, without the ID-Adapter"),
        (mimic_motion, "MimicMotion"),
        (parallel, "DistributedDataParallel"),
        (torch.load(animation / "pose_net.pth", weights_only=True), "PoseNet"),
        ({"weight": torch.ones(1)}, "another model"),
    ):
        torch.save(spoiled, unet_file(copy))
        assert hint in message(loading.load_unet, unet_file(copy), copy / "SVD")
    assert "holds StableAnimator's FaceEncoder" in message(loading.load_pose_net, animation / "face_encoder.pth")
    assert "holds StableAnimator's PoseNet" in message(loading.load_face_encoder, animation / "pose_net.pth")
    assert "holds StableAnimator's PoseNet" in message(loading.load_arcface, animation / "pose_net.pth")


class Malicious:
    """Would create a file if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_damaged_and_dangerous_files(copy, tmp_path):
    path, read = tmp_path / "weights.pth", loading.read_state_dict
    assert "no such file" in message(read, path)
    whole = unet_file(copy).read_bytes()
    for content, reason in (
        (whole[: len(whole) // 2], "truncated"),
        (whole[:10], "truncated"),
        (b"", "truncated"),
        (b"\x00" * 100, "truncated or not a torch weights file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
    ):
        path.write_bytes(content)
        assert reason in message(read, path)
    for zipped in (True, False):
        torch.save({"a": Malicious(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
        assert "could run code" in message(read, path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": Malicious(tmp_path / "ran")}, protocol))
        assert "refused, because it holds Python objects that could run code" in message(read, path)
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {"a": torch.ones(1)}}, path)
    assert "it holds: state_dict" in message(read, path)
    torch.save([torch.ones(1)], path)
    assert "it holds: list" in message(read, path)
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    assert "truncated or not a safetensors file" in message(read, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_is_always_a_checkpoint_error(tmp_path, zipped):
    """Cut anywhere, or with bytes changed: torch answers with a dozen types of error, OSError among them."""
    path, numbers = tmp_path / "weights.pth", random.Random(0)
    torch.save({"a": torch.ones(50), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    spoiled = [whole[:length] for length in range(0, len(whole), 13)]
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(4):
            content[numbers.randrange(len(content))] = numbers.randrange(256)
        spoiled.append(bytes(content))
    refused = 0
    for content in spoiled:
        path.write_bytes(content)
        try:
            loading.read_state_dict(path)
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert refused > len(spoiled) / 3


def test_an_error_without_a_files_name_names_the_file(tmp_path, monkeypatch):
    """The system's "Invalid argument", which a damaged file causes by its sizes, is not a failure to write."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)

    def fail(*args, **options):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(torch, "load", fail)
    assert message(loading.read_state_dict, path).startswith(f"{path}: truncated or not a torch weights file")


def test_left_out_paths_are_those_of_the_layout(copy, monkeypatch, tmp_path):
    """`from_checkpoints()` without arguments, from any folder."""
    monkeypatch.setenv("STABLEANIMATOR_HOME", str(copy.parent))
    monkeypatch.chdir(tmp_path)
    expected = loading.load_components(**checkpoint_paths(copy))["unet"].state_dict()
    found = loading.load_components()["unet"].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_missing_configs_and_unknown_vae(copy):
    svd = copy / "SVD" / SVD_FOLDER
    config = svd / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "AutoencoderKL"}))
    assert "its class is AutoencoderKL" in message(loading.load_vae, svd / "vae")
    config.unlink()
    assert "config.json: no such file" in message(loading.load_vae, svd / "vae")
    (svd / "image_encoder" / "model.safetensors").unlink()
    assert "no model.safetensors" in message(loading.load_image_encoder, svd / "image_encoder")


CONFIGS = [
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_make_no_sense(copy, name, monkeypatch):
    """Never a name to look up on the hub, never a library's own error."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the web was contacted"))
    path = copy / "SVD" / SVD_FOLDER / name
    for content, reason in (
        ("", "cannot be read as JSON"),
        ("[]", "a list where"),
        ("null", "a NoneType where"),
        ('"gpt2"', "a str where"),
        ("{bad", "cannot be read as JSON"),
    ):
        path.write_text(content)
        assert reason in message(lambda: loading.load_components(**checkpoint_paths(copy)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet/config.json", {"num_attention_heads": [1, 2]}),
        ("unet/config.json", {"block_out_channels": [33, 32, 64, 64]}),
        ("unet/config.json", {"down_block_types": ["CrossAttnDownBlock2D"] * 4}),
        ("vae/config.json", {"block_out_channels": [32, 32]}),
        ("image_encoder/config.json", {"num_attention_heads": 5}),
        ("image_encoder/config.json", {"hidden_act": "none such"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none such"}),
    ],
)
def test_configs_that_describe_nothing(copy, name, change):
    path = copy / "SVD" / SVD_FOLDER / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    text = message(lambda: loading.load_components(**checkpoint_paths(copy)))
    assert f"{path}: describes nothing that can be built" in text


def test_a_scheduler_that_does_not_predict_v(copy):
    folder = copy / "SVD" / SVD_FOLDER / "scheduler"
    (folder / "scheduler_config.json").write_text("{}")
    assert "epsilon at discrete timesteps" in message(loading.load_scheduler, folder)


def test_the_vae_is_the_class_that_model_index_names(copy):
    svd = copy / "SVD" / SVD_FOLDER
    (svd / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"]}))
    assert "its class is AutoencoderKL" in message(lambda: loading.load_components(**checkpoint_paths(copy)))


def test_parts_of_different_checkpoints_do_not_mix(copy):
    from tests.synthetic import randomise

    other = randomise(loading.PoseNet(out_channels=96), 0)
    torch.save(other.state_dict(), copy / "Animation" / "pose_net.pth")
    assert "first width 96, but this checkpoint has 32" in message(
        lambda: loading.load_components(**checkpoint_paths(copy))
    )


def test_face_channel_order_is_a_property_of_the_checkpoint(copy):
    path = copy / "Animation" / "face_encoder.pth"
    assert loading.read_face_channel_order(path) is None
    (copy / "Animation" / "checkpoint.json").write_text('{"face_channel_order": "bgr"}')
    assert loading.read_face_channel_order(path) == "bgr"
    (copy / "Animation" / "checkpoint.json").write_text('{"face_channel_order": "gbr"}')
    assert "must be rgb or bgr" in message(loading.read_face_channel_order, path)


LOAD = """
import re, sys, torch
from pathlib import Path
from torch import nn
from accelerate import init_empty_weights
from animation.weights import loading
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
with init_empty_weights():
    model = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(8)))
if sys.argv[2] == "ours":
    loading.assign_state_dict(model, loading.read_state_dict(sys.argv[1]), sys.argv[1], torch.float32)
    checksum = sum(parameter.sum().item() for parameter in model.parameters())
else:
    model = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(8)))
    model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
@pytest.mark.slow
def test_loading_needs_the_files_size_once(tmp_path):
    """512 MiB of weights: mapped and assigned they take their size once, loaded and copied twice."""
    path = tmp_path / "weights.pth"
    torch.save({f"{i}.weight": torch.zeros(4096, 4096) for i in range(8)}, path)
    size = path.stat().st_size
    peaks = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", LOAD, path, how],
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).parents[1],
            ).stdout
        )
        for how in ("ours", "plain")
    }
    assert peaks["ours"] < 1.2 * size
    assert peaks["plain"] > 1.8 * size
