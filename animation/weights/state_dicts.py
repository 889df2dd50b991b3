"""Named tensors out of files, never running what a file carries, and into a model, strictly."""

import contextlib
import errno
import mmap
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from animation.cli import listed
from animation.errors import CheckpointError
from animation.weights.layout import find_file
from animation.weights.onnx import read_arcface_onnx

Model = TypeVar("Model", bound=nn.Module)

# A tensor that only one of our models has, to recognise a file given in another's place.
SIGNATURES = {
    "StableAnimator's PoseNet": "conv_layers.14.weight",
    "StableAnimator's FaceEncoder": "fusion_model.proj_in.weight",
    "StableAnimator's UNet": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.id_to_k.weight",
    "an ArcFace recogniser": "layer1.0.bn3.weight",
    "a plain SVD UNet, without the ID-Adapter": "conv_norm_out.weight",
    "a VAE": "decoder.conv_in.weight",
    "an I3D network": "Mixed_3b.b0.conv3d.weight",
    "an ImageNet classifier": "features.0.weight",
}
# What torch says of an object, and of the frames of a newer pickle format, that tensors have no use for.
REFUSALS = ("GLOBAL", "Unsupported operand 149")
LARGEST_PICKLE = 64 << 20  # bytes: what names a file's tensors
DOWNLOAD_HINT = "download the released weights (FrancisRing/StableAnimator on the Hugging Face hub)"


def write_state_dict(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors to a `.safetensors` file, there with texts beside them, or else to a torch file.

    Raises OSError: the disk is full, or does not take it for another reason.
    """
    try:
        if path.suffix == ".safetensors":
            save_file(state, path, metadata)
        else:
            torch.save(state, path)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).rpartition(": ")[2] if isinstance(error, SafetensorError) else "the disk may be full"
        raise OSError(errno.EIO, f"cannot be written; {reason}", str(path)) from None


def resolve_weights_file(path: str | Path) -> Path:
    """What `find_file` finds. Raises CheckpointError where that is nothing."""
    if found := find_file(Path(path)):
        return found
    raise CheckpointError(f"{path}: no such file; {DOWNLOAD_HINT} or correct the path")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read named tensors from a `.safetensors` file, a torch file or ArcFace's `.onnx`, memory-mapped where possible.

    Raises CheckpointError: the file is missing, truncated, a git-lfs pointer, a web page, or holds more than tensors.
    """
    path = resolve_weights_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and the disk"
        ) from None
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in that repository")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: a web page saved as weights; download the file itself, not its page")
    if path.suffix == ".onnx":
        return {name: torch.from_numpy(array.copy()) for name, array in read_arcface_onnx(path).items()}
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: truncated or not a safetensors file ({error}); download it again") from None
    return _read_torch_file(path, zipped=head.startswith(b"PK"))


def _read_torch_file(path: Path, zipped: bool) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TorchScript, which is refused below
            _refuse_bombs(path, zipped)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged file makes torch raise almost anything, an OSError without a name too
        reason = "truncated or not a torch weights file; download it again"
        if "TorchScript" in str(error):
            reason = (
                "a TorchScript program, which could run code; where you trust it, save its tensors alone: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        elif any(sign in str(error) for sign in REFUSALS) or _names_objects(path):
            reason = (
                "refused, because it holds Python objects that could run code, not only tensors; get the weights from "
                "their authors, or as .safetensors"
            )
        raise CheckpointError(f"{path}: {reason}") from None
    if not isinstance(state, dict) or not all(map(_is_plain, state, state.values())):
        keys = ", ".join(map(str, list(state)[:3])) if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: not a plain state dict (it holds: {keys}); extract the tensors from it")
    declared, size = sum(tensor.nbytes for tensor in state.values()), path.stat().st_size
    if declared > 2 * size:  # twice, for tensors that share their numbers
        raise CheckpointError(f"{path}: declares {declared} bytes of tensors in a file of {size}; download it again")
    return state


def _is_plain(name: object, value: object) -> bool:
    """Whether this is a named tensor of numbers that are there."""
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not (value.is_quantized or value.is_nested)


def _refuse_bombs(path: Path, zipped: bool) -> None:
    """Raise ValueError for what torch would fill memory with: a long list of names, or bytearray(10**12) in it."""
    with contextlib.ExitStack() as stack:
        if zipped:
            archive = stack.enter_context(zipfile.ZipFile(path))
            members = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
            if any(member.file_size > LARGEST_PICKLE for member in members):
                raise ValueError("more names than any network has")
            found = any(b"bytearray" in archive.read(member) for member in members)
        else:
            file = stack.enter_context(path.open("rb"))
            found = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).find(b"bytearray") >= 0
        if found:
            raise ValueError(f"{REFUSALS[0]} bytearray")


def _names_objects(path: Path) -> bool:  # as a plain pickle, whatever its format
    with contextlib.suppress(Exception), path.open("rb") as file:  # pickletools raises anything for another file
        return any(code.name in ("GLOBAL", "STACK_GLOBAL", "INST") for code, *_ in pickletools.genops(file))
    return False


def recognise(names: set[str]) -> str:
    """A hint at what a file holds, from its tensor names."""
    if {name.split(".")[0] for name in names} >= {"unet", "pose_net"}:
        return "this looks like MimicMotion's checkpoint, one file for all its parts"
    if all(name.startswith("module.") for name in names):
        return "its names start with `module.`, as DistributedDataParallel saves them: remove that prefix"
    for kind, signature in SIGNATURES.items():
        if signature in names:
            return f"this file holds {kind}"
    return "this file holds another model"


def assign_state_dict(
    model: Model, state: Mapping[str, torch.Tensor], path: str | Path, dtype: torch.dtype, device: str = "cpu"
) -> Model:
    """The model with `state`'s tensors for its parameters, converted to `dtype` one by one, frozen, in eval mode.

    On the device `meta` the model gets their shapes alone, and their numbers are not read. Raises CheckpointError: a
    tensor is missing, left over or of another shape; the first few are named.
    """
    expected, found = ({name: list(value.shape) for name, value in of.items()} for of in (model.state_dict(), state))
    reshaped = [name for name, shape in expected.items() if found.get(name, shape) != shape]
    findings = {
        "tensors missing": [name for name in expected if name not in found],
        "left over": [name for name in found if name not in expected],
        "of another shape": [f"{name}: {expected[name]} expected, {found[name]} found" for name in reshaped],
    }
    if any(findings.values()):
        kind = recognise(set(found))
        hint = f"; {kind}" if kind != recognise(set(expected)) else ""
        told = "; ".join(f"{len(names)} {what} ({listed(names, 3)})" for what, names in findings.items() if names)
        raise CheckpointError(f"{path}: does not fit {type(model).__name__}: {told}{hint}")
    converted = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype) for name, tensor in state.items()
    }
    model.load_state_dict(converted, assign=True)
    return model.eval().requires_grad_(False)


def load_self_described(
    model_class: type[Model], path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Model:
    """Load a model whose sizes its own tensors tell. Raises CheckpointError: a damaged file, or another model's."""
    state = read_state_dict(path)
    try:
        config = cast(Any, model_class).config_from_shapes({name: tensor.shape for name, tensor in state.items()})
    except KeyError as error:
        reason = f"{error.args[0]} is missing; {recognise(set(state))}"
        raise CheckpointError(f"{path}: not the weights of {model_class.__name__}: {reason}") from None
    with init_empty_weights():
        model = model_class(**config)
    return assign_state_dict(model, state, path, dtype, device)
