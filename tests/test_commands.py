"""The shell commands, on the shipped small checkpoints, in a copy so that nothing is written beside the sources."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPTS = ("animate.py", "inference_basic.py", "inference_op.py", "skeleton_extraction.py")
FOLDERS = ("animation", "DWPose", "checkpoints/tiny", "models/tiny", "inference")  # never a user's own weights
FRAMES = 24  # of the shipped driver


def run(folder, command, variables=None, **replaced):
    """Run a command in a folder, with other values of some flags; the finished process."""
    (folder / command).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / command, folder / command)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", **(variables or {})}
    flags = [f"--{name}={value}" for name, value in replaced.items()]
    return subprocess.run(["bash", command, *flags], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    for path in FOLDERS:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).symlink_to(ROOT / path)
    for path in SCRIPTS:
        shutil.copy(ROOT / path, tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_photo_and_video_become_an_animation(copy):
    """Two denoising steps with face optimisation in the first: skeletons, sampling, GIF and MP4 are all there."""
    for command, output in (("command_basic_infer.sh", "basic"), ("scripts/command_op_infer.sh", "op")):
        changes = {"num_inference_steps": 2}
        if output == "op":
            changes |= {"end_refine_step": 0, "num_optimization_iter": 1}
        result = run(copy, command, **changes)
        assert result.returncode == 0, result.stderr
        assert "checkpoints/tiny" in result.stderr
        folder = copy / "output" / output
        found = json.loads((folder / "run.json").read_text())
        assert found["face_found"] is True
        assert found["num_frames"] == FRAMES
        assert len(found.get("face_optimization", [])) == (output == "op")
        with av.open(str(folder / "animation.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert container.streams.video[0].average_rate == 12
        assert np.shape(frames) == (FRAMES, 128, 128, 3)
        assert Image.open(folder / "animated_images.gif").n_frames == FRAMES
        skeleton = np.asarray(Image.open(folder / "poses" / "frame_0.png"))
        assert skeleton.any(), "somebody was found in the driver"


@pytest.mark.slow
def test_one_command_makes_a_clip_with_the_drivers_sound(copy):
    """The MP4 has the driver's rate, length and sound."""
    arguments = ["--photo=inference/case-1/reference.png", "--video=inference/driver.mp4", "--output=out"]
    result = subprocess.run(
        [sys.executable, "animate.py", *arguments, "--num_inference_steps=2", "--side_by_side"],
        cwd=copy,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "NO RELEASED WEIGHTS" in result.stderr
    driver, clip = (read_media(copy / path) for path in ("inference/driver.mp4", "out/animation.mp4"))
    assert clip["rate"] == driver["rate"] == 12
    assert clip["frames"] == driver["frames"] == FRAMES
    length = min(clip["sound"].shape[-1], driver["sound"].shape[-1])
    assert length >= 0.95 * driver["sound"].shape[-1]
    alike = np.corrcoef(loudness(clip["sound"][:length]), loudness(driver["sound"][:length]))[0, 1]
    late = np.corrcoef(loudness(clip["sound"][4800:length]), loudness(driver["sound"][: length - 4800]))[0, 1]
    assert alike > 0.95, "the same notes at the same times"
    assert late < 0.8, "a tenth of a second late is told apart"
    assert (copy / "out" / "csim.png").is_file()


def read_media(path):
    with av.open(str(path)) as container:
        rate, frames = container.streams.video[0].average_rate, sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
    return {"rate": rate, "frames": frames, "sound": sound}


def loudness(sound):
    """Of each hundredth of a second."""
    return np.abs(sound[: len(sound) // 480 * 480]).reshape(-1, 480).mean(1)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_released_weights_come_first(copy):
    """Where the UNet lies in the released place, all is looked for there."""
    (copy / "checkpoints" / "Animation").mkdir()
    (copy / "checkpoints" / "Animation" / "unet.pth").write_bytes(b"weights")
    for command in ("command_basic_infer.sh", "scripts/command_op_infer.sh"):
        drawing = run(copy, command)
        assert drawing.returncode == 2
        assert drawing.stderr.startswith("error: the released weights are for photos of people; ")
        assert drawing.stderr.count("\n") == 1
        result = run(copy, command, {"PHOTO": "inference/case-1/reference.png", "DRIVER": "inference/driver.mp4"})
        assert result.returncode == 2
        assert "checkpoints/DWPose" in result.stderr
        assert "tiny" not in result.stdout + result.stderr
