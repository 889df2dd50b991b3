"""What this machine, these weights, this photo and this driver can do: findings of one line each."""

import importlib.metadata
import itertools
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from animation.errors import InputError
from animation.face.detection import Face, FaceFinder
from animation.media.images import FrameFolder, load_photo
from animation.media.video import VideoFrames
from animation.report import library_versions
from animation.weights.layout import CHECKOUT, Checkpoints
from animation.weights.verification import NOTE, OK, PROBLEM, WARNING, Finding
from DWPose.alignment import FAR_FROM_PHOTO
from DWPose.arrangement import arrange, photo_person
from DWPose.keypoints import CONFIDENCE, People
from DWPose.recording import Recording
from DWPose.wholebody import Wholebody

PACKAGE = "stableanimator"
RUNTIMES = "onnxruntime", "onnxruntime-gpu"  # of which one can be installed at a time
NEEDED_GIB = {"disk": 5, "memory": 12, "GPU memory": 10}  # below: a warning
SMALL_FACE = 0.08  # of the photo's shorter side
FACE_OF = {True: "photo's face", False: "face's own picture"}  # by whether the picture is the photo
FRAMES_LOOKED_AT = 8  # of a driver, spread over its length
BORDER = 0.01  # of a picture's side: a person's box that comes as near touches it
VIEWS = {  # what is in view of a person, and the body's key points of which one shows it
    "the whole body": (10, 13),
    "the body down to the knees": (9, 12),
    "the body down to the hips": (8, 11),
    "head and shoulders": (2, 5),
}


def tried_versions() -> dict[str, str]:
    """The libraries' versions that were tried together: of the source checkout, else of the installed package."""
    pins = CHECKOUT / "requirements.txt"
    lines = pins.read_text(encoding="utf-8").splitlines() if pins.is_file() else importlib.metadata.requires(PACKAGE)
    found = [re.fullmatch(r"([\w-]+)==([\w.]+)", line.strip()) for line in lines or []]
    return {match[1]: match[2] for match in found if match}


def judge(subject: str, text: str, bad: bool, remedy: str, level: str = WARNING) -> Finding:
    """What was found, at a level and with a remedy where it is bad."""
    return Finding(level, subject, text, remedy) if bad else Finding(OK, subject, text)


def check_versions(tried: dict[str, str]) -> list[Finding]:
    """Python and the libraries, against the versions that were tried together."""
    versions = library_versions([*tried, *RUNTIMES])
    text, remedy = f"{versions['python']} on {versions['platform']}", "use 3.11 or later"
    findings = [judge("Python", text, sys.version_info < (3, 11), remedy, PROBLEM)]
    missing = [name for name in tried if name not in versions and (name not in RUNTIMES or RUNTIMES[1] not in versions)]
    other = [
        f"{name} {versions[name]} instead of {wanted}"
        for name, wanted in tried.items()
        if name in versions and versions[name].split("+")[0] != wanted
    ]
    remedy = "pip install -r requirements.txt"
    if missing:
        findings.append(Finding(PROBLEM, "libraries", f"not installed: {', '.join(missing)}", remedy))
    if other:
        findings.append(Finding(WARNING, "libraries", f"other versions than were tried: {', '.join(other)}", remedy))
    if not missing and not other:
        findings.append(Finding(OK, "libraries", f"all {len(tried)} of the versions that were tried together"))
    if all(name in versions for name in RUNTIMES):
        remedy = f"pip uninstall -y {' '.join(RUNTIMES)}, then install one of them"
        findings.append(Finding(PROBLEM, RUNTIMES[0], f"{' and '.join(RUNTIMES)} overwrite each other", remedy))
    return findings


def check_networks(checkpoints: Checkpoints) -> Finding:
    """Which networks are used where no flag names one."""
    folder = checkpoints.unet.parents[1]
    if not checkpoints.tiny:
        return Finding(OK, "networks", f"the released ones, in {folder} and {checkpoints.face_models}")
    text = (
        f"the small ones in {folder} are used, which know drawn figures alone; the released ones are not there and "
        f"want {', '.join(f'{gib} GiB of {what}' for what, gib in NEEDED_GIB.items())}"
    )
    return Finding(NOTE, "networks", text, "download_weights.py fetches them")


def check_machine(folder: Path, tiny: bool) -> list[Finding]:
    """GPU, memory, free disk of a folder, and which onnxruntime provider really runs.

    Where the small networks are used (`tiny`), what only the released ones lack is a note.
    """
    import psutil
    import torch

    lacking = NOTE if tiny else WARNING

    def enough(what: str, count: int, remedy: str) -> Finding:
        gib, needed = count / 2**30, NEEDED_GIB[what]
        wanted = f", and the released networks want {needed}" if gib < needed else ""
        return judge(what, f"{gib:.1f} GiB free{wanted}", gib < needed, remedy, lacking)

    cuda = torch.cuda.is_available()
    findings = []
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        findings.append(Finding(OK, "GPU", f"{properties.name}, torch {torch.__version__}"))
        findings.append(enough("GPU memory", properties.total_memory, "--offload model"))
    elif torch.backends.mps.is_available():
        findings.append(Finding(OK, "GPU", "Apple's, by MPS"))
    else:
        text = f"none that torch {torch.__version__} can use: the released networks take hours on a CPU"
        remedy = "on an NVIDIA machine, check its driver and that torch is a CUDA build"
        findings.append(Finding(lacking, "GPU", text, remedy))
    findings.append(enough("memory", psutil.virtual_memory().available, "close other programs"))
    findings.append(enough("disk", shutil.disk_usage(folder).free, "make room"))
    return [*findings, check_onnxruntime(cuda)]


def check_onnxruntime(wants_cuda: bool) -> Finding:
    """Open a network of one operation and look at what runs it."""
    import onnx.parser
    import onnxruntime

    text = '<ir_version: 10, opset_import: ["": 18]> identity (float[1] x) => (float[1] y) { y = Identity(x) }'
    model = onnx.parser.parse_model(text)
    available = onnxruntime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=wanted).get_providers()[0]
    remedy = "install onnxruntime-gpu (requirements-gpu.txt) with matching CUDA and cuDNN"
    lost = wants_cuda and running != "CUDAExecutionProvider"
    return judge("onnxruntime", f"{onnxruntime.__version__} runs on {running}", lost, remedy)


def check_face(path: str, checkpoints: Checkpoints, own: bool = True) -> Iterator[Finding]:
    """Whether the face is found in the photo (`own`) or in another picture of it, as `judge_faces` tells.

    Raises InputError.
    """
    picture = load_photo(path)
    yield judge_faces(picture.size, *FaceFinder(checkpoints.face_models, checkpoints.dwpose)(np.asarray(picture)), own)


def judge_faces(photo_size: tuple[int, int], faces: Sequence[Face], way: str | None, own: bool = True) -> Finding:
    """Whether a photo of a size, or else another picture of the face, has one that is large enough.

    Args:
        faces, way: what `FaceFinder` found in it.
        own: whether it is the photo.
    """
    subject = FACE_OF[own]
    if not faces:
        remedy = "take a photo with a larger, frontal, unobstructed face"
        return Finding(WARNING, subject, "no face found", remedy)
    left, top, right, bottom = max(faces, key=lambda face: face.area).box
    text = f"{right - left:.0f}×{bottom - top:.0f} pixels of {photo_size[0]}×{photo_size[1]}, found by {way}"
    if len(faces) > 1:
        text += f", the largest of {len(faces)}{' (--face takes another)' if own else ''}"
    small = min(right - left, bottom - top) < SMALL_FACE * min(photo_size)
    return judge(subject, f"small: {text}" if small else text, small, "crop the photo closer")


def check_poses(photo_path: str | None, driver_path: str | None, checkpoints: Checkpoints) -> Iterator[Finding]:
    """Whether people are found in the photo and the driver, whole, and how far apart their poses are.

    Raises InputError where there is nothing more to look at.
    """
    recording = Recording(None, None, [], (1, 1), 30.0)
    wholebody = Wholebody(checkpoints.detector, checkpoints.pose_estimator)
    if photo_path is not None:
        photo = np.asarray(load_photo(photo_path))
        recording.photo, recording.photo_size = wholebody.estimate(photo), photo.shape[1::-1]
        found = photo_person(recording)
        yield Finding(OK, "photo's person", f"found, confidence {found.scores[:, :18].mean():.2f}")
    if driver_path is not None:
        frames = spread_frames(driver_path)
        people = wholebody.estimate(frames[0])
        recording.video, recording.video_size = [people], frames[0].shape[1::-1]
        if not people.detected:
            raise InputError("nobody is detected in the driver's first frame; start where the person is in view")
        yield Finding(OK, "driver's person", f"{len(people)} found in the first frame")
        yield check_border([people.boxes, *map(wholebody.detector, frames[1:])], recording.video_size)
    if recording.photo is not None and recording.video:
        yield check_views(recording.photo, recording.video[0])
        distances = arrange(recording).distances
        if distances is not None:
            yield judge_distance(distances[0])


def judge_distance(distance: float) -> Finding:
    """Whether the driver's first pose is near the photo's, by their distance in body heights."""
    text = f"the driver's first pose is {distance:.2f} of a body height from the photo's"
    remedy = "start at a frame that is nearer to the photo's pose"
    return judge("alignment", text, distance > FAR_FROM_PHOTO, remedy)


def check_border(frames: list[np.ndarray], size: tuple[int, int]) -> Finding:
    """Whether the driver's people touch the picture's border, by their boxes in each frame and the frames' size."""
    low, high = BORDER * np.array(size), (1 - BORDER) * np.array(size)
    touching = sum(bool((boxes[:, :2] <= low).any() or (boxes[:, 2:] >= high).any()) for boxes in frames)
    text = f"touched by somebody in {touching} of {len(frames)} frames"
    remedy = "limbs that leave the picture move wildly: take a driver with room around the person"
    return judge("driver's border", text, touching > 0, remedy)


def check_views(photo: People, driver: People) -> Finding:
    """Whether as much of the largest person is in view in the photo as in the driver's first frame."""
    shown, driven = view(photo), view(driver)
    if shown == driven:
        return Finding(OK, "view", f"photo and driver show {shown}")
    text = f"the photo shows {shown}, and the driver's first frame {driven}"
    return Finding(WARNING, "view", text, "crop the photo or the driver so that both show the same")


def view(people: People) -> str:
    """What is in view of the largest of people with 133 key points, in words."""
    largest = int(np.prod(people.boxes[:, 2:] - people.boxes[:, :2], axis=1).argmax())
    scores = people.openpose().scores[largest]
    return next((words for words, points in VIEWS.items() if scores[list(points)].max() > CONFIDENCE), "a head")


def spread_frames(path: str) -> list[np.ndarray]:
    """The first frame of a folder or a video, and some more over its length: (H, W, 3) uint8 RGB. Raises InputError."""
    if Path(path).is_dir():
        folder = FrameFolder(path)
        return [np.asarray(frame) for frame in folder[:: -(-len(folder) // FRAMES_LOOKED_AT)]]
    stride = max(1, (VideoFrames(path).estimated_length or 1) // FRAMES_LOOKED_AT)
    return list(itertools.islice(VideoFrames(path, stride=stride), FRAMES_LOOKED_AT))
