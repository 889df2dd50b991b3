"""Files from strangers run no code, read no file outside of their folder, write nowhere else, and fill no memory.

Beside each attack stands the naive reader that it works on.
"""

import json
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.clip.cases import check_cases, read_cases
from animation.clip.flow import Models, make_clip
from animation.clip.settings import ClipSettings
from animation.errors import CheckpointError, InputError, RunError
from animation.face.embedding import load_face_embedding
from animation.media.images import FrameFolder, load_photo
from animation.media.sound import load_sound
from animation.media.video import VideoFrames
from animation.weights import download
from animation.weights.loading import load_image_encoder, load_scheduler
from animation.weights.onnx import read_arcface_onnx
from animation.weights.state_dicts import read_state_dict
from DWPose.recording import load_recording
from DWPose.sessions import open_session
from tests.clips import clip_settings, write_keypoints
from tests.synthetic import SVD_FOLDER
from tests.test_video import write_video

SECRET = 77


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Calls:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.fixture
def ran(tmp_path):
    """The file that code makes where it runs."""
    return tmp_path / "ran"


def ran_by(ran, naive):
    """Whether code ran in a naive reader; what it raises does not matter. The trace is removed."""
    try:
        naive()
    except Exception as error:
        print(error)
    return ran.exists() and ran.unlink() is None


def test_weights_run_no_code(tmp_path, ran):
    path = tmp_path / "unet.pth"
    torch.save({"a": Runs(ran)}, path)
    with pytest.raises(CheckpointError, match=r"unet\.pth: refused, because it holds Python objects"):
        read_state_dict(path)
    assert not ran.exists()
    assert ran_by(ran, lambda: torch.load(path, weights_only=False))


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_fill_no_memory_by_a_call(tmp_path, zipped):
    path = tmp_path / "unet.pth"
    torch.save({"a": Calls(bytearray, 1 << 20)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="refused"):
        read_state_dict(path)
    assert len(torch.load(path, weights_only=True)["a"]) > 100 * path.stat().st_size


@pytest.mark.parametrize("tensor", [torch.zeros(1).expand(1 << 40), Calls(torch.Tensor, 1 << 28)])
def test_weights_declare_no_more_than_the_file_holds(tmp_path, tensor):
    path = tmp_path / "unet.pth"
    torch.save({"a": tensor}, path)
    with pytest.raises(CheckpointError, match=r"declares [0-9]+ bytes of tensors in a file of"):
        read_state_dict(path)
    assert torch.load(path, weights_only=True)["a"].numel() >= 1 << 28


@pytest.mark.parametrize("tensor", [torch.zeros(2, device="meta"), torch.eye(2).to_sparse()])
def test_weights_that_are_no_numbers(tmp_path, tensor):
    path = tmp_path / "unet.pth"
    torch.save({"a": tensor}, path)
    with pytest.raises(CheckpointError, match="not a plain state dict"):
        read_state_dict(path)


def test_a_long_list_of_names_is_not_inflated(tmp_path):
    path = tmp_path / "unet.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 27))
    with pytest.raises(CheckpointError, match="truncated or not a torch weights file"):
        read_state_dict(path)
    assert path.stat().st_size < 1 << 18
    with zipfile.ZipFile(path) as archive:
        assert len(archive.read("archive/data.pkl")) == 1 << 27


def write_network(path, location, shape=(16,)):
    """A network whose weight lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=str(location))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "network", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("way", ["above", "absolute", "link"])
def test_a_network_reads_nothing_outside_of_its_folder(tmp_path, way):
    folder, secret = tmp_path / "models", tmp_path / "secret"
    folder.mkdir()
    np.full(16, SECRET, np.float32).tofile(secret)
    (folder / "link").symlink_to(secret)
    path, location = folder / "glintr100.onnx", {"above": "../secret", "absolute": secret, "link": "link"}[way]
    write_network(path, location)
    for read in (open_session, read_arcface_onnx, read_state_dict):
        with pytest.raises(InputError, match=r"glintr100\.onnx"):
            read(path)
    named = onnx.load(path, load_external_data=False).graph.initializer[0].external_data[0].value
    assert (np.fromfile(folder / named, np.float32) == SECRET).all()
    np.full(16, 3, np.float32).tofile(folder / "weights")  # beside it, as large networks are stored
    write_network(path, "weights")
    (sum_,) = open_session(path).run(None, {"x": np.zeros(16, np.float32)})
    assert (sum_ == 3).all()


def test_a_config_fetches_no_code(checkpoint, tmp_path):
    folder = tmp_path / "image_encoder"
    source = checkpoint / "SVD" / SVD_FOLDER / "image_encoder"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    for name in ("attn_implementation", "_attn_implementation"):
        config = json.loads((source / "config.json").read_text()) | {name: "someone/code"}
        (folder / "config.json").write_text(json.dumps(config))
        assert load_image_encoder(folder).config._attn_implementation == "sdpa"
        with pytest.raises(ImportError, match="kernels"):  # which would fetch it
            CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


@pytest.mark.parametrize("change", [{"num_train_timesteps": 10**9}, {"num_train_timesteps": float("inf")}])
def test_a_config_builds_nothing_without_end(tmp_path, change):
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"} | change))
    with pytest.raises(CheckpointError, match="num_train_timesteps is"):
        load_scheduler(tmp_path)


def test_layers_without_end(checkpoint, tmp_path):
    config = json.loads((checkpoint / "SVD" / SVD_FOLDER / "image_encoder" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 10000000"):
        load_image_encoder(tmp_path)


def test_key_points_run_no_code(tmp_path, ran):
    path = write_keypoints(tmp_path / "keypoints.npz")
    arrays = dict(np.load(path)) | {"sources": np.array([Runs(ran)], object)}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"keypoints\.npz: not a file of key points"):
        load_recording(path)
    assert not ran.exists()
    assert ran_by(ran, lambda: dict(np.load(path, allow_pickle=True)))


@pytest.mark.slow
def test_key_points_fill_no_memory(tmp_path):
    path = write_keypoints(tmp_path / "keypoints.npz")
    arrays = dict(np.load(path)) | {"video_scores": np.zeros((1 << 20, 133), np.float32)}
    np.savez_compressed(path, **arrays)
    with pytest.raises(InputError, match=r"its arrays take [0-9]+ bytes"):
        load_recording(path)
    with np.load(path) as naive:
        assert naive["video_scores"].nbytes > 500 * path.stat().st_size


def test_key_points_of_more_frames_than_a_day(tmp_path):
    path = write_keypoints(tmp_path / "keypoints.npz")
    many = {"video_counts": np.zeros(2 * 10**6, np.int8), "video_detected": np.zeros(2 * 10**6, bool)}
    np.savez_compressed(path, **(dict(np.load(path)) | many))
    with pytest.raises(InputError, match="of no possible lengths"):
        load_recording(path)


def test_key_points_are_not_written_through_a_link(tmp_path):
    path, outside = write_keypoints(tmp_path / "out" / "keypoints.npz"), tmp_path / "outside"
    outside.write_text("theirs")
    (path.parent / ".keypoints.npz.partial").symlink_to(outside)
    load_recording(path).save(path)
    assert outside.read_text() == "theirs" and not path.is_symlink()


def test_an_embedding_runs_no_code(tmp_path, ran):
    path = tmp_path / "face.npy"
    np.save(path, np.array([Runs(ran)] * 512, object))
    with pytest.raises(InputError, match=r"face\.npy: not a \.npy array"):
        load_face_embedding(path)
    path.write_bytes(pickle.dumps(Runs(ran)))
    with pytest.raises(InputError, match=r"face\.npy: not a \.npy array"):
        load_face_embedding(path)
    assert not ran.exists()
    assert ran_by(ran, lambda: np.load(path, allow_pickle=True))


def test_cases_run_no_code(tmp_path, ran):
    path = tmp_path / "cases.yaml"
    path.write_text(f"- photo: !!python/object/apply:os.mkdir ['{ran}']\n")
    with pytest.raises(InputError, match=r"cases\.yaml: cannot be read"):
        read_cases(path)
    assert not ran.exists()
    yaml.unsafe_load(path.read_text())
    assert ran.is_dir()


@pytest.mark.parametrize("place", ["../elsewhere", "/elsewhere", "link/elsewhere"])
def test_cases_write_nowhere_else(tmp_path, place):
    output = tmp_path / "out"
    output.mkdir()
    (output / "link").symlink_to(tmp_path)
    place = f"{tmp_path}{place}" if place.startswith("/") else f"{output}/{place}"
    common = ClipSettings(output=str(output))
    (case,) = check_cases(common, [{"output": place}])
    assert "is not in --output" in case.error
    assert Path(replace(common, output=place).output).resolve() == tmp_path / "elsewhere"
    (case,) = check_cases(common, [{"output": f"{output}/deeper/down"}])
    assert "is not in --output" not in case.error


@pytest.fixture
def secret_video(tmp_path):
    """A video outside of the folder that a stranger's file is in."""
    return write_video(tmp_path / "secret.mp4", np.full((3, 32, 32, 3), SECRET, np.uint8))


PLAYLISTS = {
    "a playlist": ("driver.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", {}),
    "a concatenation": ("driver.mp4", "ffconcat version 1.0\nfile '{}'\n", {"safe": "0"}),
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_driver_reads_no_other_file(tmp_path, secret_video, name):
    file, content, naive = PLAYLISTS[name]
    path = tmp_path / "in" / file
    path.parent.mkdir()
    path.write_text(content.format(secret_video))
    with pytest.raises(InputError, match=f"{file}: not a readable video"):
        VideoFrames(path)
    with pytest.raises(InputError, match=f"{file}: its sound cannot be read"):
        load_sound(path, 0, 1)
    with av.open(str(path), options=naive) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert abs(frame.astype(int) - SECRET).max() < 5


def test_a_driver_opens_no_port(tmp_path):
    path = tmp_path / "driver.sdp"
    where = "o=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0"
    path.write_text(f"v=0\n{where}\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n")
    with pytest.raises(InputError, match=r"driver\.sdp: not a readable video"):
        VideoFrames(path)


def test_a_frame_larger_than_any_video(tmp_path, secret_video, monkeypatch):
    assert len(list(VideoFrames(secret_video))) == 3
    monkeypatch.setattr("animation.media.video.LARGEST_FRAME", 1000)
    with pytest.raises(InputError, match="frames of 32×32 pixels; scale it"):
        VideoFrames(secret_video)


@pytest.mark.skipif(sys.platform == "win32", reason="a program that is a shell script")
def test_a_picture_runs_no_program(tmp_path, ran, monkeypatch):
    """Pillow hands PostScript to Ghostscript, which is a programming language, whatever the file's ending."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{ran}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "frames" / "photo_0.png"
    path.parent.mkdir()
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (load_photo, lambda path: FrameFolder(path.parent)):
        with pytest.raises(InputError, match="not a readable image"):
            read(path)
    assert not ran.exists()
    assert ran_by(ran, lambda: Image.open(path).load())


def test_cases_of_an_archive_unpack_to_no_more_than_is_due(tmp_path, monkeypatch):
    archive = tmp_path / "inference.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inference/bomb.png", bytes(1 << 20))
    monkeypatch.setattr(download, "LARGEST_CASES", 1 << 19)
    with pytest.raises(RunError, match=r"unpacks to 1 MB; nothing was unpacked"):
        download.unpack_cases(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    zipfile.ZipFile(archive).extractall(tmp_path / "out")
    assert (tmp_path / "out" / "inference" / "bomb.png").stat().st_size > 100 * archive.stat().st_size


@pytest.mark.slow
@pytest.mark.long
def test_nothing_is_written_through_a_link_in_the_output_folder(tmp_path, checkpoint, case):
    """Of whatever a whole run writes, a link is refused or replaced, and what it points at stays as it is."""
    settings = clip_settings(tmp_path, checkpoint, case).resolve()
    models = Models()
    make_clip(settings, settings.read_inputs(), models)
    names = [path.relative_to(settings.output) for path in Path(settings.output).rglob("*")]
    names += map(Path, (".lock", ".lock.json", ".partial", ".unfinished", ".unfinished/frames", ".partial-run.json"))
    outside = tmp_path / "outside"
    for number, name in enumerate(names):
        trial = replace(settings, output=str(tmp_path / f"out-{number}"))
        link = Path(trial.output) / name
        link.parent.mkdir(parents=True)
        is_folder = (Path(settings.output) / name).is_dir() or name.suffix == ""
        outside.mkdir() if is_folder else outside.write_text("theirs")
        link.symlink_to(outside)
        try:
            make_clip(trial, trial.read_inputs(), models)
        except (InputError, OSError) as error:
            print(name, error)
        assert list(outside.iterdir()) == [] if is_folder else outside.read_text() == "theirs", name
        outside.rmdir() if is_folder else outside.unlink()
