"""How much memory a run takes on its device, and how much arithmetic: the run is rehearsed on torch's meta device.

The pipeline itself runs there, on tensors that have shapes and no numbers, while every tensor's bytes are counted as it
comes and goes. So the model of the memory is the code whose memory it is; released sizes take seconds and no memory.
What kernels take for themselves is added (`kernel_workspace`).
"""

import contextlib
import copy
import functools
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from animation.decoding import LATENT_SIZE
from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer
from animation.pipeline import DEVICE_SHARE_FOR_POSES, AnimationPipeline
from animation.sampling import Conditions

META = torch.device("meta")
REHEARSED_STEPS = 2  # denoising steps: a second one meets what the first left
REHEARSED_CHUNKS = 2  # of face optimisation, likewise
PASSES = 4  # of the decoder in a gradient step: forward, once more for its gradients, and twice that backward
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What memory and time of a run depend on, beside its networks.

    Attributes:
        width, height: pixels.
        num_frames: of the video.
        num_inference_steps: denoising steps.
        tile_size, frames_overlap: of the windows, frames.
        guided: whether there is an unconditional branch: a guidance scale above 1.
        cfg_batch: 2 with both branches in one batch, 1 with one after the other.
        decode_chunk_size: frames decoded together.
        refined_steps: denoising steps with face optimisation; 0 for none.
        num_optimization_iter: gradient steps at each of them.
        hjb_crop: latents beside the faces that are decoded then; None for whole frames.
    """

    width: int
    height: int
    num_frames: int
    num_inference_steps: int = 25
    tile_size: int = 16
    frames_overlap: int = 4
    guided: bool = True
    cfg_batch: int = 2
    decode_chunk_size: int = 4
    refined_steps: int = 0
    num_optimization_iter: int = 3
    hjb_crop: int | None = None


@dataclass
class Stage:
    """What one stage of a run takes.

    Attributes:
        peaks: by the network at work (or ``), the most bytes of tensors, those of all networks' weights left out.
        flops: floating-point operations, two for a product and a sum.
    """

    peaks: dict[str, int] = field(default_factory=dict)
    flops: float = 0.0


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of all meta tensors alive, and the arithmetic, while it is on.

    What leaves the meta device comes out as ones on the CPU.

    Args:
        kernels: the kind of device whose kernels' own memory is added, cpu or cuda; see `kernel_workspace`.

    Attributes:
        now: bytes alive.
        high: the most that were alive.
        peaks: the same by the part of the run at work, beyond `base`.
        base: bytes that `peaks` leaves out.
        flops: floating-point operations.
    """

    def __init__(self, kernels: str):
        super().__init__()
        self.kernels = kernels
        self.now = self.high = self.base = 0
        self.flops = 0.0
        self.peaks: dict[str, int] = {}
        self._part = ""
        self._known: dict[int, int] = {}  # bytes by storage
        self._elsewhere = False

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within the context, peaks are that part's."""
        outer, self._part = self._part, name
        self._see(self.now)
        try:
            yield
        finally:
            self._part = outer

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Within the context, tensors that are made stand for others on another device and do not count."""
        before, self._elsewhere = self._elsewhere, True
        try:
            yield
        finally:
            self._elsewhere = before

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor that is there already."""
        self._add(tensor, tensor.untyped_storage().nbytes())

    def take(self, size: int) -> None:
        """Count bytes that come and go at once."""
        self._see(self.now + size)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation on meta tensors, and count."""
        kwargs = kwargs or {}
        inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        leaving = any(x.is_meta for x in inputs)
        if leaving and func is torch.ops.aten._local_scalar_dense.default:
            return torch.ones((), dtype=inputs[0].dtype).item()
        if leaving and func is torch.ops.aten.copy_.default and not args[0].is_meta:
            return args[0]
        if leaving and func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or META) != META:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        for tensor in inputs:  # made before counting began, or outside it
            self._add(tensor, 0)
        output = func(*args, **kwargs)
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor, tensor.untyped_storage().nbytes())
        if leaving:
            self.take(kernel_workspace(func, args, output, self.kernels))
            self.flops += flops(func, args, kwargs, output)
        return output

    def _add(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not tensor.is_meta or key in self._known:
            return
        size = 0 if self._elsewhere else size
        self._known[key] = size
        weakref.finalize(storage, self._remove, key).atexit = False
        self.now += size
        self._see(self.now)

    def _remove(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def _see(self, size: int) -> None:
        self.high = max(self.high, size)
        self.peaks[self._part] = max(self.peaks.get(self._part, 0), size - self.base)


class FusedAttention(TorchFunctionMode):
    """Attention as all devices' kernels do it, without its matrix of logits, which the meta device would make."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Replace scaled_dot_product_attention by an operation that makes the same tensors as the fused kernels."""
        if func is F.scaled_dot_product_attention:
            kwargs = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return ATTENTION(kwargs["query"], kwargs["key"], kwargs["value"])[0]
        return func(*args, **(kwargs or {}))


def flops(func, args: tuple, kwargs: dict, output) -> float:
    """Floating-point operations of a matrix product, a convolution or attention; 0 for anything else."""
    if func.overloadpacket is ATTENTION:
        query, key = args[:2]
        return 4.0 * math.prod(query.shape) * key.shape[-2]
    count = flop_registry.get(func.overloadpacket)
    return 0.0 if count is None else float(count(*args, **kwargs, out_val=output))


def kernel_workspace(func, args: tuple, output, kernels: str) -> int:
    """Bytes that an operation's kernel takes for itself while it works.

    * oneDNN, on the CPU, copies a convolution's input and weights to blocks of its own in half precision, and its
      output back from them; plain convolutions, which are used where oneDNN does not pay, unfold their input into
      columns. Attention has a tile of logits for each thread.
    * cuDNN copies a convolution's input, output and weights to channels-last and back. Attention with heads wider
      than 128 gathers its output in float32.
    """
    if func.overloadpacket is ATTENTION:
        query, key = args[:2]
        rows, width = query.shape[-2:]
        if kernels == "cpu":
            tile = 256 if rows >= 768 else 64 if rows >= 192 else 32
            return torch.get_num_threads() * 4 * min(tile, rows) * (min(512, key.shape[-2]) + width + 2)
        return query.numel() * 4 if width > 128 else 0
    if func.overloadpacket is not torch.ops.aten.convolution:
        return 0
    signal, weight, _bias, stride, padding, dilation, transposed, output_padding, groups = args
    if kernels != "cpu":
        return (signal.numel() + output.numel() + weight.numel()) * signal.element_size()
    one = torch.empty(1, dtype=signal.dtype)
    backend = torch._C._select_conv_backend(
        one.expand(signal.shape),
        one.expand(weight.shape),
        None,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
    )
    if "Mkldnn" in str(backend) and signal.dtype == torch.float32:
        return 0
    if "Mkldnn" in str(backend):
        return max(signal.numel() + weight.numel(), output.numel()) * signal.element_size()
    columns = weight[0].numel() * output.shape[0] * math.prod(output.shape[2:])
    pointwise = math.prod(weight.shape[2:]) == 1 and set(stride) == {1} and set(padding) == {0}
    return 0 if pointwise and weight.ndim == 4 else columns * signal.element_size()


class _Blank:
    """A skeleton image without an image."""

    def __init__(self, width: int, height: int):
        self._pixels = np.zeros((height, width, 3), np.uint8)

    def convert(self, mode: str) -> "_Blank":
        """Itself."""
        return self

    def resize(self, size: tuple[int, int], resample: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._pixels


class _RehearsedPipeline(AnimationPipeline):
    """An AnimationPipeline on the meta device, which knows how much memory the device will have."""

    count: TensorBytes
    device_memory: int | None

    def _allocate_pose_latents(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        size, memory = math.prod(shape) * like.element_size(), self.device_memory
        if memory is None or size <= memory * DEVICE_SHARE_FOR_POSES:  # of what is free, at most
            return like.new_empty(shape)
        with self.count.elsewhere():  # on the host
            return torch.empty(shape, dtype=like.dtype, device=META)


class Rehearsal:
    """Rehearses runs of one set of networks; calls of the same shapes are remembered.

    Args:
        components: what `load_components(…, device="meta")` returned; they are changed, and serve for nothing else.
        kernels: the kind of device that the run is for, cpu or cuda.
        arcface: the recogniser of face optimisation, on the meta device; None without it.
        device_memory: bytes of that device, which decide where poses wait; None: on the device.
    """

    def __init__(
        self,
        components: dict,
        kernels: str,
        arcface: torch.nn.Module | None = None,
        device_memory: int | None = None,
    ):
        self.components, self.kernels, self.arcface, self.device_memory = components, kernels, arcface, device_memory
        self.networks = {name: part for name, part in components.items() if isinstance(part, torch.nn.Module)}
        if arcface is not None:
            self.networks["arcface"] = arcface
        self._calls: dict = {}
        self._stages: dict = {}
        self._conditions: Conditions | None = None
        self._folding = True
        self._pipeline = _RehearsedPipeline(**components)
        self._pipeline.set_progress_bar_config(disable=True)
        self._pipeline.count = self._count = TensorBytes(kernels)
        self._pipeline.device_memory = device_memory
        for network in self.networks.values():
            for tensor in _tensors(network.to(META)):
                self._count.hold(tensor)
        self._count.base = self._count.now
        methods = {"image_encoder": "forward", "face_encoder": "forward", "pose_net": "forward", "unet": "forward"}
        for name, method in [*methods.items(), ("vae", "encode"), ("vae", "decode"), ("preview_vae", "decode")]:
            if name in self.networks:
                self._attend(name, method)

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of each network's parameters and buffers."""
        return {name: sum(tensor.nbytes for tensor in _tensors(network)) for name, network in self.networks.items()}

    @property
    def largest_layer(self) -> int:
        """Bytes of the largest layer's own parameters: what sequential offloading has on the device at a time."""
        layers = (layer for network in self.networks.values() for layer in network.modules())
        return max(sum(tensor.nbytes for tensor in layer.parameters(recurse=False)) for layer in layers)

    def run(self, job: Job, offload: str = "none") -> dict[str, Stage]:
        """What the stages of a run take: encode, denoise, refine where there is face optimisation, and decode.

        Args:
            job: what is run.
            offload: `sequential` keeps the ID-Adapter from folding its weights, which then lie elsewhere.

        Raises:
            ValueError: face optimisation without a recogniser.
        """
        if job.refined_steps and self.arcface is None:
            raise ValueError("face optimisation needs a recogniser: give arcface")
        self._fold(offload != "sequential")
        self._set_timesteps(min(REHEARSED_STEPS, job.num_inference_steps))
        size = job.width, job.height, job.num_frames
        if self._conditions is None or self._conditions_size != size:
            self._conditions = self._pipeline.denoiser = None
            self._stages.clear()
            self._conditions_size = size
        windows = job.num_inference_steps, job.tile_size, job.frames_overlap, job.guided, job.cfg_batch, self._folding
        stages = {
            "encode": self._rehearse(("encode",), lambda: self._encode(job)),
            "denoise": self._rehearse(("denoise", *windows), lambda: self._denoise(job)),
        }
        if job.refined_steps:
            key = "refine", job.decode_chunk_size, job.hjb_crop, job.guided
            stage = self._rehearse(key, lambda: self._refine(job))
            chunks = -(-job.num_frames // job.decode_chunk_size)
            chunks /= min(REHEARSED_CHUNKS, chunks)
            passes = (PASSES * job.num_optimization_iter + 1) / (PASSES + 1)
            stages["refine"] = Stage(stage.peaks, stage.flops * job.refined_steps * chunks * passes)
        stages["decode"] = self._rehearse(("decode", job.decode_chunk_size), lambda: self._decode(job))
        return stages

    def _rehearse(self, key: tuple, work: Callable[[], float]) -> Stage:
        """Run a stage, or remember it. `work` returns how many times its arithmetic the run does."""
        if key not in self._stages:
            count = self._count
            count.peaks, count.flops = {}, 0.0
            with torch.no_grad(), FusedAttention(), count:
                times = work()
            self._stages[key] = Stage(count.peaks, count.flops * times)
        return self._stages[key]

    def _set_timesteps(self, steps: int) -> None:
        """Set the timesteps, which cannot be computed on the meta device, before the counting begins."""
        scheduler = self._pipeline.scheduler = copy.deepcopy(self.components["scheduler"])
        scheduler.set_timesteps(steps)
        scheduler.timesteps = scheduler.timesteps.to(META)
        scheduler.set_timesteps = lambda *_, **__: None

    def _encode(self, job: Job) -> float:
        photo = Image.new("RGB", (64, 64))  # it is resized on the host
        poses = [_Blank(job.width, job.height)] * job.num_frames
        embedding = np.zeros(self.networks["face_encoder"].config.embedding_dim, np.float32)
        self._conditions = self._pipeline.encode(photo, poses, embedding, job.height, job.width)
        return 1.0

    def _denoise(self, job: Job) -> float:
        steps = min(REHEARSED_STEPS, job.num_inference_steps)
        self._pipeline.denoise(
            self._conditions,
            steps,
            3.0 if job.guided else 1.0,
            None,
            job.tile_size,
            job.frames_overlap,
            job.cfg_batch,
        )
        return job.num_inference_steps / steps

    def _latents(self, job: Job) -> torch.Tensor:
        height, width = job.height // LATENT_SIZE, job.width // LATENT_SIZE
        return torch.empty(1, job.num_frames, self.networks["unet"].config.out_channels, height, width, device=META)

    def _refine(self, job: Job) -> float:
        """One step of face optimisation, with one gradient step, on the first chunks, while the sampler waits."""
        waiting = [self._latents(job) for _ in range(3 + job.guided)]  # latents, predictions, v
        shown = min(job.num_frames, REHEARSED_CHUNKS * job.decode_chunk_size)
        third, quarter = job.width // 3, job.height // 4
        box = FaceBox(y_min=quarter // 2, y_max=quarter + quarter // 2, x_min=third, x_max=2 * third)
        optimizer = FaceOptimizer(
            self._pipeline.decoding_vae,
            self.arcface,
            torch.empty(1, self.arcface.config.embedding_dim, device=META),
            [box] * shown + [None] * (job.num_frames - shown),
            num_iterations=1,
            decode_chunk_size=job.decode_chunk_size,
            crop_margin=job.hjb_crop,
            progress=False,
        )
        decoder = "vae" if self._pipeline.preview_vae is None else "preview_vae"
        with self._count.part(decoder):
            optimizer(self._latents(job), 0, job.num_inference_steps)
        del waiting
        return 1.0

    def _decode(self, job: Job) -> float:
        for _ in self._pipeline.decode(self._latents(job), job.decode_chunk_size):
            pass
        return 1.0

    def _attend(self, name: str, method: str) -> None:
        """Name the part of the run while a network's method runs, and remember calls without gradients."""
        network = self.networks[name]
        original = getattr(network, method)

        @functools.wraps(original)
        def call(*args, **kwargs):
            """Run the network, or where these shapes have run before do as if."""
            count = self._count
            with count.part(name):
                if torch.is_grad_enabled() or name == "image_encoder" or method == "encode":
                    return original(*args, **kwargs)
                tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
                shapes = tuple((tuple(x.shape), x.dtype) for x in tensors)
                key = (name, method, shapes, self._folding, torch.get_num_threads())
                if key not in self._calls:
                    self._calls[key] = self._measure(original, args, kwargs)
                    return self._calls[key][2]()
                size, work, outputs = self._calls[key]
                count.take(size)
                count.flops += work
                return outputs()

        setattr(network, method, call)

    def _measure(self, call, args, kwargs) -> tuple:
        """The bytes that a call takes at most, its arithmetic, and what makes outputs such as its own."""
        count = self._count
        before, high, work = count.now, count.high, count.flops
        count.high = before
        output = call(*args, **kwargs)
        size, count.high = count.high - before, max(high, count.high)
        with count.elsewhere():
            template = tree_map(lambda x: torch.empty_like(x) if isinstance(x, torch.Tensor) else x, output)

        def outputs():
            """New tensors of the outputs' shapes."""
            return tree_map(lambda x: torch.empty_like(x) if isinstance(x, torch.Tensor) else x, template)

        return size, count.flops - work, outputs

    def _fold(self, folding: bool) -> None:
        """Let the ID-Adapter fold its weights, or not, as where accelerate's offloading keeps them elsewhere."""
        self._folding = folding
        for layer in self.networks["unet"].modules():
            if isinstance(layer, torch.nn.Linear):
                if not folding:
                    layer._hf_hook = None
                elif hasattr(layer, "_hf_hook"):
                    del layer._hf_hook


def _tensors(network: torch.nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def peak_bytes(stage: Stage, rehearsal: Rehearsal, offload: str) -> int:
    """The most bytes of tensors on the device in a stage.

    Args:
        stage: of that rehearsal's `run`.
        rehearsal: whose networks are meant.
        offload: `none`: all weights are there; `model`: those of the network at work; `sequential`: one layer.
    """
    weights = rehearsal.weights
    if offload == "none":
        return sum(weights.values()) + max(stage.peaks.values())
    always = weights.get("arcface", 0)
    if offload == "sequential":
        return always + rehearsal.largest_layer + max(stage.peaks.values())
    at_work = max((weights[name] for name in stage.peaks if name), default=0)
    return always + max(weights.get(name, at_work) + peak for name, peak in stage.peaks.items())
