"""What this machine and these folders can do: findings of one line each, before an evening is lost."""

import importlib.metadata
import platform
import re
import shutil
import sys
from pathlib import Path

import numpy as np

from animation.errors import InputError
from animation.face.detection import FaceFinder, find_face_models
from animation.media.images import FrameFolder, load_photo
from animation.media.video import VideoFrames
from animation.weights.verification import OK, PROBLEM, WARNING, Finding, check
from DWPose.alignment import FAR_FROM_PHOTO
from DWPose.arrangement import arrange, photo_person
from DWPose.recording import Recording
from DWPose.wholebody import MODEL_FILES, Wholebody

PINS = Path(__file__).parents[1] / "requirements.txt"
OLDEST_PYTHON = (3, 11)
NEEDED_GIB = {"disk": 5, "memory": 12, "GPU memory": 10}  # below: a warning
SMALL_FACE = 0.08  # of the photo's shorter side


def check_versions(pins: Path = PINS) -> list[Finding]:
    """Python and the libraries, against the versions that were tried together."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        findings = [Finding(PROBLEM, "Python", found, f"use {'.'.join(map(str, OLDEST_PYTHON))} or later")]
    else:
        findings = [Finding(OK, "Python", f"{found} on {platform.platform()}")]
    other, missing, count = [], [], 0
    for name, wanted in re.findall(r"^([\w-]+)==([\w.]+)", pins.read_text(encoding="utf-8"), re.MULTILINE):
        count += 1
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "onnxruntime" and _installed("onnxruntime-gpu"):
                continue
            missing.append(name)
            continue
        if version.split("+")[0] != wanted:
            other.append(f"{name} {version} instead of {wanted}")
    remedy = "pip install -r requirements.txt"
    if missing:
        findings.append(Finding(PROBLEM, "libraries", f"not installed: {', '.join(missing)}", remedy))
    if other:
        findings.append(Finding(WARNING, "libraries", f"other versions than were tried: {', '.join(other)}", remedy))
    if not missing and not other:
        findings.append(Finding(OK, "libraries", f"all {count} of the versions that were tried together"))
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        findings.append(
            Finding(
                PROBLEM,
                "onnxruntime",
                "onnxruntime and onnxruntime-gpu overwrite each other",
                "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
            )
        )
    return findings


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_machine(folder: Path) -> list[Finding]:
    """GPU, memory, free disk, and which onnxruntime provider really runs."""
    import psutil
    import torch

    findings = []
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        text = f"{properties.name}, torch {torch.__version__}"
        findings += [Finding(OK, "GPU", text), _enough("GPU memory", properties.total_memory, "--offload model")]
    elif torch.backends.mps.is_available():
        findings.append(Finding(OK, "GPU", "Apple's, by MPS"))
    else:
        findings.append(
            Finding(
                WARNING,
                "GPU",
                f"none that torch {torch.__version__} can use: the released model takes hours on a CPU",
                "on an NVIDIA machine, check its driver and that torch is a CUDA build",
            )
        )
    findings.append(_enough("memory", psutil.virtual_memory().available, "close other programs"))
    findings.append(_enough("disk", shutil.disk_usage(folder).free, "make room"))
    findings.append(check_onnxruntime(torch.cuda.is_available()))
    return findings


def _enough(what: str, count: int, remedy: str) -> Finding:
    gib = count / 2**30
    enough = gib >= NEEDED_GIB[what]
    return Finding(OK if enough else WARNING, what, f"{gib:.1f} GiB free", "" if enough else remedy)


def check_onnxruntime(wants_cuda: bool) -> Finding:
    """Open a network of one operation and look at what runs it."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", *sides)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    available = onnxruntime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted).get_providers()[0]
    if wants_cuda and running != "CUDAExecutionProvider":
        remedy = "install onnxruntime-gpu (requirements-gpu.txt) with matching CUDA and cuDNN"
        return Finding(WARNING, "onnxruntime", f"{onnxruntime.__version__} runs on {running}", remedy)
    return Finding(OK, "onnxruntime", f"{onnxruntime.__version__} runs on {running}")


def check_face(photo_path: str, face_models: str, dwpose_folder: str) -> Finding:
    """Whether the photo's face is found, how, and whether it is large enough."""

    def work() -> Finding:
        """Look."""
        photo = load_photo(photo_path)
        faces, way = FaceFinder(find_face_models(face_models), dwpose_folder)(np.asarray(photo))
        if not faces:
            text, remedy = "no face found", "take a photo with a larger, frontal, unobstructed face"
            return Finding(WARNING, "photo's face", text, remedy)
        face = max(faces, key=lambda face: face.area)
        width, height = face.box[2] - face.box[0], face.box[3] - face.box[1]
        text = f"{width:.0f}×{height:.0f} pixels of {photo.width}×{photo.height}, found by {way}"
        if len(faces) > 1:
            text += f", the largest of {len(faces)} (--face takes another)"
        if min(width, height) < SMALL_FACE * min(photo.size):
            return Finding(WARNING, "photo's face", f"small: {text}", "crop the photo closer")
        return Finding(OK, "photo's face", text)

    return _guarded("photo's face", work)


def check_poses(photo_path: str | None, driver_path: str | None, dwpose_folder: Path) -> list[Finding]:
    """Whether the photo's person and the driver's first frame are found, and how far apart their poses are."""
    findings: list[Finding] = []

    def people() -> str:
        """Fill `findings`."""
        wholebody = Wholebody(*(dwpose_folder / name for name in MODEL_FILES))
        if photo_path is not None:
            photo = np.asarray(load_photo(photo_path))
            recording.photo, recording.photo_size = wholebody.estimate(photo), photo.shape[1::-1]
            found = photo_person(recording)
            findings.append(Finding(OK, "photo's person", f"found, confidence {found.scores[:, :18].mean():.2f}"))
        if driver_path is not None:
            frame = first_frame(driver_path)
            people = wholebody.estimate(frame)
            recording.video, recording.video_size = [people], frame.shape[1::-1]
            if not people.detected:
                raise InputError("nobody is detected in the driver's first frame; start where the person is in view")
            findings.append(Finding(OK, "driver's person", f"{len(people)} found in the first frame"))
        if photo_path is None or driver_path is None:
            return ""
        distance = float(arrange(recording).distances[0])
        text = f"the driver's first pose is {distance:.2f} of a body height from the photo's"
        if distance > FAR_FROM_PHOTO:
            remedy = "start at a frame that is nearer to the photo's pose"
            findings.append(Finding(WARNING, "alignment", text, remedy))
        else:
            findings.append(Finding(OK, "alignment", text))
        return ""

    recording = Recording(None, None, [], (1, 1), 30.0)
    outcome = check("poses", people)
    return findings + ([outcome] if outcome.level != OK else [])


def first_frame(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a folder of frames or a video. Raises InputError."""
    if Path(path).is_dir():
        return np.asarray(FrameFolder(path)[0])
    return next(iter(VideoFrames(path)))


def _guarded(subject: str, work) -> Finding:
    try:
        return work()
    except InputError as error:
        return Finding(PROBLEM, subject, str(error))
