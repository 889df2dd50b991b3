"""The shipped cases on the shipped networks give the very frames that they always gave.

Kernels of another processor round otherwise: there the frames' 8×8 means are compared in place of their bytes.
`python -m tests.test_shipped_cases` writes the recorded values anew, which only a change of the networks or of the
method should ask for.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from animation.clip.flow import Models, make_clip
from animation.clip.settings import ClipSettings
from animation.face.settings import FaceOptimizationSettings
from animation.run import animate
from animation.settings import InferenceSettings
from animation.weights.layout import fill_in, small

ROOT = Path(__file__).parents[1]
CASE_3 = ROOT / "inference" / "case-3"  # whose photo hides the face
RECORDED = Path(__file__).parent / "data" / "shipped_cases.json"
TOLERANCE = 1.0  # of 255, of a mean over 256 pixels


def basic(number, output, **changes):
    case = ROOT / "inference" / f"case-{number}"
    settings = InferenceSettings(
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        output_dir=str(output),
        no_gif=True,
        **changes,
    )
    settings = fill_in(settings, small_set())
    animate(settings, settings.read_inputs())


def optimised(output):
    case = ROOT / "inference" / "case-1"
    settings = FaceOptimizationSettings(
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        validation_control_mask_folder=str(case / "faces"),
        output_dir=str(output),
        num_inference_steps=4,
        guidance_scale=2.0,
        num_optimization_iter=1,
        max_frames=8,
        no_gif=True,
    )
    settings = fill_in(settings, small_set())
    animate(settings, settings.read_inputs())


def clip(output, video, **changes):
    hidden = {"photo": str(CASE_3 / "reference.png"), "face_photo": str(CASE_3 / "face.png")}
    settings = ClipSettings(video=str(video), output=str(output), dtype="fp32", **hidden, **changes)  # on any machine
    settings = settings.resolve(small_set())
    make_clip(settings, settings.read_inputs(), Models())


FEW_STEPS = {"num_inference_steps": 10, "frames_overlap": 2, "decode_chunk_size": 2}
RUNS = {
    "case-1": lambda output: basic(1, output),
    "case-2": lambda output: basic(2, output),
    "case-3": lambda output: basic(3, output, face_photo=str(CASE_3 / "face.png")),
    "case-1 with face optimisation": optimised,
    "a clip of skeletons": lambda output: clip(output, ROOT / "inference" / "case-1" / "poses", **FEW_STEPS),
    "a clip of a video": lambda output: clip(output, ROOT / "inference" / "driver.mp4", **FEW_STEPS),
}


def small_set():
    """The shipped networks, whatever else is on this machine."""
    found = small(ROOT)
    return found.__class__(**{**vars(found), "suits": json.loads((found.unet.parents[1] / "model.json").read_text())})


def machine():
    """What decides how kernels round: the processor, as far as torch tells, and torch itself."""
    return [torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability(), processor()]


def processor():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return sorted({line.split(":")[1].strip() for line in lines if line.startswith(("model", "cpu family"))})


def describe(output):
    """The hash of all frames' pixels, and the means of 8×8 parts of each."""
    paths = sorted((output / "animated_images").iterdir(), key=lambda path: int(path.stem[6:]))
    frames = np.stack([np.asarray(Image.open(path)) for path in paths])
    count, height, width, _ = frames.shape
    means = frames.reshape(count, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4))
    return hashlib.sha256(frames.tobytes()).hexdigest(), means


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_frames_are_what_they_always_were(name, tmp_path):
    recorded = json.loads(RECORDED.read_text())
    RUNS[name](tmp_path / "out")
    digest, means = describe(tmp_path / "out")
    if machine() == recorded["machine"]:
        assert digest == recorded["runs"][name]["sha256"]
    assert np.abs(means.round() - np.array(recorded["runs"][name]["means"])).max() <= TOLERANCE


def test_another_seed_gives_other_frames(tmp_path):
    basic(1, tmp_path / "out", seed=1, max_frames=4)
    digest, means = describe(tmp_path / "out")
    recorded = json.loads(RECORDED.read_text())["runs"]["case-1"]
    assert digest != recorded["sha256"]
    assert np.abs(means.round() - np.array(recorded["means"])[:4]).max() > TOLERANCE


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = {}
    for name, run in RUNS.items():
        output = Path(sys.argv[1]) / name
        run(output)
        digest, means = describe(output)
        runs[name] = {"sha256": digest, "means": means.round().astype(int).tolist()}
    RECORDED.write_text(json.dumps({"machine": machine(), "runs": runs}, separators=(",", ":")) + "\n")
