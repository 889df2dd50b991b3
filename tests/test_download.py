import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from animation.errors import InputError, RunError
from animation.weights import download
from tests import hub, pose_models, synthetic

ROOT = Path(__file__).parents[1]
NAME = "Somebody/StableAnimator"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Files of a small repository in the released layout, by name."""
    folder = tmp_path_factory.mktemp("repository")
    synthetic.write_checkpoint(folder)
    pose_models.write_models(folder / "DWPose")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (svd,) = {name.split("/")[1] for name in files if name.startswith("SVD/")}
    files[f"SVD/{svd}/unet/diffusion_pytorch_model.safetensors"] = b"never read"
    files["SVD/svd_xt.safetensors"] = b"never read"
    files["README.md"] = b"hello"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inference/case-1/reference.png", b"a photo")
    files["inference.zip"] = archive.getvalue()
    return files


def run(endpoint, destination, *flags):
    """The script, as a user runs it, on an endpoint."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(destination),
    }
    command = [
        sys.executable,
        str(ROOT / "download_weights.py"),
        "--repository",
        NAME,
        "--destination",
        str(destination),
        *flags,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


PARTS = ("--parts", "animation", "svd", "dwpose")


@pytest.mark.slow
def test_fetches_what_is_used_into_its_places_and_verifies(repository, tmp_path):
    with hub.serve(NAME, repository) as endpoint:
        done = run(endpoint, tmp_path, *PARTS, "cases", "--yes")
    assert done.returncode == 0, done.stderr
    for name, data in repository.items():
        path = tmp_path / "checkpoints" / name
        if name.split("/")[0] in ("Animation", "SVD", "DWPose") and data != b"never read":
            assert path.read_bytes() == data, name
        else:
            assert not path.exists(), name
    assert (tmp_path / "inference" / "case-1" / "reference.png").read_bytes() == b"a photo"
    assert "licence: Stable Video Diffusion" in done.stdout
    assert "in all" in done.stdout
    for part in ("pose_net", "face_encoder", "unet", "vae", "image_encoder", "scheduler", "person detector"):
        assert f"ok       {part}: " in done.stdout


@pytest.mark.slow
def test_nothing_is_fetched_without_consent_or_in_a_dry_run(repository, tmp_path):
    log = []
    with hub.serve(NAME, repository, log) as endpoint:
        refused, dry = run(endpoint, tmp_path, *PARTS), run(endpoint, tmp_path, *PARTS, "--dry_run")
    assert (refused.returncode, dry.returncode) == (2, 0)
    assert refused.stderr.strip().endswith("nothing was fetched; answer y, or give --yes")
    assert not [request for request in log if request[0] == "GET" and "/resolve/" in request[1]]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path):
    files = {"DWPose/yolox_l.onnx": os.urandom(24 << 20)}  # huggingface_hub writes pieces of 10 MiB
    log = []
    with hub.serve(NAME, files, log, cut=21 << 20) as endpoint:
        done = run(endpoint, tmp_path, "--parts", "dwpose", "--yes")
        if not (tmp_path / "checkpoints" / "DWPose" / "yolox_l.onnx").exists():
            assert done.returncode == 1
            assert "the same command resumes" in done.stderr
            run(endpoint, tmp_path, "--parts", "dwpose", "--yes")
    assert (tmp_path / "checkpoints" / "DWPose" / "yolox_l.onnx").read_bytes() == files["DWPose/yolox_l.onnx"]
    ranges = [wanted for method, path, wanted in log if method == "GET" and "/resolve/" in path]
    assert ranges == [None, f"bytes={20 << 20}-"]


@pytest.mark.slow
def test_what_is_whole_is_not_fetched_again(repository, tmp_path):
    log = []
    with hub.serve(NAME, repository, log) as endpoint:
        run(endpoint, tmp_path, *PARTS, "--yes")
        before = len(log)
        again = run(endpoint, tmp_path, *PARTS, "--yes")
    assert again.returncode == 0
    assert "0 B of it to fetch" in again.stdout
    assert not [request for request in log[before:] if request[0] == "GET" and "/resolve/" in request[1]]


@pytest.mark.slow
def test_a_damaged_repository_is_told_by_the_verification(repository, tmp_path):
    files = dict(repository) | {"Animation/pose_net.pth": b"<html>sorry</html>"}
    with hub.serve(NAME, files) as endpoint:
        done = run(endpoint, tmp_path, *PARTS, "--yes")
    assert done.returncode == 1
    assert "problem  pose_net: " in done.stdout
    assert "1 of 8 parts are not what they should be" in done.stderr


@pytest.mark.slow
def test_unreachable_and_unknown(repository, tmp_path):
    gone = run("http://127.0.0.1:9", tmp_path, "--yes")
    assert gone.returncode == 1
    assert "http://127.0.0.1:9: cannot be fetched from" in gone.stderr
    assert "HF_ENDPOINT" in gone.stderr
    assert "Traceback" not in gone.stderr
    with hub.serve("Somebody/Else", repository) as endpoint:
        unknown = run(endpoint, tmp_path, "--yes")
    assert unknown.returncode == 2
    assert f"{NAME}: not on http://127.0.0.1" in unknown.stderr


def test_plan_leaves_out_what_is_never_read(tmp_path, monkeypatch):
    wanted = ["SVD/vae/a.safetensors", "SVD/xt/image_encoder/a.safetensors", "SVD/unet/config.json", "SVD/index.json"]
    ignored = ["SVD/vae/a.fp16.safetensors", "SVD/unet/a.safetensors", "SVD/x.safetensors", "SVD/vae/../../../evil"]
    files = dict.fromkeys([*wanted, *ignored, "Animation/unet.pth"], b"12345")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = f"""
from animation.errors import InputError
from animation.weights import download
found = download.plan(["svd", "animation"], "here", {NAME!r})
print(sorted(str(file.path) for file in found), {{file.size for file in found}})
try:
    download.plan(["dwpose"], "here", {NAME!r})
except InputError as error:
    print(error)
"""
    with hub.serve(NAME, files) as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    places = sorted(f"here/checkpoints/{name}" for name in [*wanted, "Animation/unet.pth"])
    assert done.stdout.splitlines() == [
        f"{places} {{5}}",
        f"{NAME}: has no DWPose/*; leave dwpose out of --parts, or check the name",
    ]
    assert not (ROOT / "here").exists()


def test_an_unknown_part():
    with pytest.raises(InputError, match="--parts everything is unknown; give some of animation, svd"):
        download.plan(["everything"], "here")


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SPARE_BYTES", 1 << 60)
    file = download.RemoteFile("animation", "Animation/unet.pth", 5, tmp_path, hub.COMMIT)
    with pytest.raises(InputError, match=r"free and 5 B to fetch"):
        download.fetch([file], tmp_path)


def test_a_file_of_another_size_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_snapshot", lambda *args, **options: None)
    file = download.RemoteFile("animation", "unet.pth", 5, tmp_path, hub.COMMIT)
    for content, found in ((None, 0), (b"123", 3)):
        if content is not None:
            file.path.write_bytes(content)
        with pytest.raises(RunError, match=f"unet.pth: {found} bytes where 5 were due"):
            download.fetch([file], tmp_path)
    file.path.write_bytes(b"12345")
    download.fetch([file], tmp_path)


def test_an_archive_that_reaches_out_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good.txt", "good")
        file.writestr("../evil.txt", "evil")
    with pytest.raises(RunError, match="reaches out"):
        download.unpack_cases(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "b.zip").write_bytes(b"no")
    with pytest.raises(RunError, match="not a whole zip"):
        download.unpack_cases(tmp_path / "b.zip", tmp_path / "out")
