"""ONNX networks, opened and checked."""

import itertools
import logging
from pathlib import Path

import onnxruntime

from DWPose.errors import InputError

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cuda", "cpu")


def find_model(path: str | Path) -> Path:
    """The path of an ONNX file that looks whole, or InputError with where to get it."""
    path = Path(path)
    remedy = f"download {path.name} from the folder DWPose of FrancisRing/StableAnimator (Hugging Face hub) to it"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a git-lfs pointer, not the network itself; {remedy}")
    if head.lstrip()[:1] == b"<":
        raise InputError(f"{path}: a web page, not a network; {remedy}")
    return path


def open_session(path: str | Path, device: str = "auto") -> onnxruntime.InferenceSession:
    """Open an ONNX file on `cuda`, `cpu`, or `auto` (CUDA where onnxruntime has it), and log what really runs it.

    Raises:
        InputError: the file is missing or not a network, or the device unknown.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown; give one of {', '.join(DEVICES)}")
    path = find_model(path)
    available = onnxruntime.get_available_providers()
    wanted = "CUDAExecutionProvider" if device != "cpu" else None
    providers = [name for name in (wanted, "CPUExecutionProvider") if name in available]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is said below, in one line
    try:
        retry = len(providers) > 1  # else what fails on the CPU is told, and tried there again
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=int(retry))
    except Exception as error:  # onnxruntime raises types of its own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: not a network that onnxruntime can open ({reason}); download it again") from None
    running = session.get_providers()[0]
    if device == "cuda" and running != wanted:
        reason = "this onnxruntime has no CUDA: uninstall both onnxruntime packages, then install onnxruntime-gpu"
        if wanted in available:
            reason = "its CUDA libraries could not be loaded: CUDA and cuDNN must match onnxruntime-gpu's version"
        logger.warning(f"{path.name} runs on the CPU though CUDA was asked for: {reason}")
    logger.info(f"{path.name} runs on {running}")
    return session


def check_shapes(path: str | Path, found: dict[str, list], expected: dict[str, tuple]) -> None:
    """Raise InputError, naming the file, unless a network's tensors have the expected names and shapes.

    Args:
        found: shapes by name; a size that is not an integer is free.
        expected: the same, of integers.
    """
    filled = {}  # what is free as it is expected
    for name, shape in found.items():
        pairs = itertools.zip_longest(shape, expected.get(name, ()), fillvalue=0)
        filled[name] = tuple(have if isinstance(have, int) else want for have, want in pairs)
    if filled != expected:
        raise InputError(
            f"{path}: another network than DWPose's; expected {_describe(expected)}; found {_describe(found)}; "
            "check that the networks' paths are not mixed up, or download it from FrancisRing/StableAnimator again"
        )


def _describe(shapes: dict) -> str:
    return ", ".join(f"{name} ({', '.join('any' if n is None else str(n) for n in s)})" for name, s in shapes.items())
