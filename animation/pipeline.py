"""AnimationPipeline: a photo, a sequence of poses and a face embedding become a video."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion import StableVideoDiffusionPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from animation.decoding import decode_frames, encode_frames, vae_device
from animation.errors import InputError, NonFiniteError
from animation.media.images import check_size
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.parallel import ALONE, Processes
from animation.sampling import Checkpoint, Conditions, RefineX0, WindowedDenoiser, denoise, initial_latents
from animation.schedules import EVERYWHERE, set_timesteps
from animation.weights.loading import load_components
from animation.windows import windows_of_steps

POSE_CHUNK = 16  # skeleton images that go through PoseNet at a time
DEVICE_SHARE_FOR_POSES = 0.1  # of the free device memory: above it pose latents wait on the CPU


class AnimationPipeline(StableVideoDiffusionPipeline):
    """StableAnimator (arXiv 2411.17697): encode → denoise → decode, each a method of its own.

    It is a diffusers pipeline: `to`, the offload methods, `set_progress_bar_config`, `callback_on_step_end`,
    `output_type` and `generator` work as there.

    Args:
        vae: encodes the photo and, unless there is a `preview_vae`, decodes the video.
        image_encoder, scheduler, feature_extractor: SVD's own.
        preview_vae: a cheaper decoder (TAESD), or None.

    Attributes:
        processes: that make each video together; this one alone, unless it is set.
    """

    processes: Processes = ALONE
    model_cpu_offload_seq = "image_encoder->face_encoder->pose_net->unet->vae->preview_vae"
    _optional_components: ClassVar = ["preview_vae"]

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        image_encoder: CLIPVisionModelWithProjection,
        unet: PoseGuidedUNet,
        scheduler: EulerDiscreteScheduler,
        feature_extractor: CLIPImageProcessor,
        pose_net: PoseNet,
        face_encoder: FaceEncoder,
        preview_vae: torch.nn.Module | None = None,
    ):
        if "block_out_channels" not in vae.config:  # AutoencoderDC; their number tells SVD's pipeline the latents' size
            vae.register_to_config(block_out_channels=vae.config.encoder_block_out_channels)
        super().__init__(vae, image_encoder, unet, scheduler, feature_extractor)
        self.register_modules(pose_net=pose_net, face_encoder=face_encoder, preview_vae=preview_vae)
        # Saved under the name that every version of transformers reads, not that of the backend in use.
        self.register_to_config(feature_extractor=("transformers", "CLIPImageProcessor"))

    @classmethod
    def from_checkpoints(cls, **files: Any) -> "AnimationPipeline":
        """Load the released files, or others of that layout and any size.

        Args:
            files: arguments of `load_components`: `svd_folder`, `unet_path`, `pose_net_path`, `face_encoder_path` (left
                out, the released weights where they are, else the small ones), `preview_vae_folder` and `dtype`.

        Raises:
            CheckpointError: a file is missing, damaged, of another model, or does not fit the others.
        """
        return cls(**load_components(**files))

    def enable_sequential_cpu_offload(self, *args, **kwargs) -> None:
        """Move one layer at a time to the device, as diffusers does it."""
        self.unet.set_folding(False)
        super().enable_sequential_cpu_offload(*args, **kwargs)

    @torch.no_grad()
    def encode(
        self,
        image: Image.Image,
        poses: Sequence[Image.Image],
        face_embedding: torch.Tensor | np.ndarray,
        height: int,
        width: int,
        *,
        fps: int = 7,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> Conditions:
        """Turn the inputs into conditions.

        Args:
            image: the reference photo, RGB, of any size.
            poses: F skeleton images, RGB, of any size; each is read once, in order.
            face_embedding: 512 numbers, raw ArcFace; zeros where there is no face.
            height, width: of the video, multiples of 64 pixels.
            fps, motion_bucket_id: frames a second and amount of motion that the model is told.
            noise_aug_strength: noise added to the photo, 0 and up.
            generator: draws that noise, (1, 3, H, W) float32; the next draw is the initial latents.

        Raises:
            InputError: a size is not a multiple of 64, there is no pose, or the embedding has another length.
        """
        check_size(height, width)
        if len(poses) == 0:
            raise InputError("no poses: at least one skeleton image is needed")
        embedding = torch.as_tensor(face_embedding).reshape(1, -1)
        if embedding.shape[1] != (due := self.face_encoder.config.embedding_dim):
            raise InputError(f"a face embedding of {embedding.shape[1]} numbers; this checkpoint takes {due}")
        device, dtype = self._execution_device, self.unet.dtype
        image_embeddings = self._encode_image(image, device, 1, False).to(dtype)  # (1, 1, D)
        face_tokens = self.face_encoder(embedding.to(device, dtype), image_embeddings)
        time_ids = self._get_add_time_ids(fps - 1, motion_bucket_id, noise_aug_strength, dtype, 1, 1, False)
        image_latents = self._encode_photo(image, height, width, noise_aug_strength, generator)
        return Conditions(
            tokens=torch.cat([image_embeddings, face_tokens], dim=1),
            image_latents=image_latents.to(device, dtype),
            pose_latents=self._encode_poses(poses, height, width),
            added_time_ids=time_ids.to(device),
        )

    def _encode_photo(
        self, image: Image.Image, height: int, width: int, noise_aug_strength: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        """(1, 4, h, w): the mode of the VAE's posterior for the noised photo, not scaled."""
        pixels = self.video_processor.preprocess(image, height=height, width=width).to(self._execution_device)
        noise = randn_tensor(pixels.shape, generator=generator, device=pixels.device, dtype=pixels.dtype)
        pixels = pixels + noise_aug_strength * noise
        with self._upcast_vae():
            posterior = encode_frames(self.vae, pixels.to(vae_device(self.vae), self.vae.dtype))
        return posterior.chunk(2, dim=1)[0]

    @contextlib.contextmanager
    def _upcast_vae(self):
        """Half-precision VAEs that overflow (`force_upcast`) encode in float32."""
        dtype = self.vae.dtype
        if not self.vae.config.get("force_upcast", False) or dtype == torch.float32:
            yield
            return
        torch.nn.Module.to(self.vae, torch.float32)
        try:
            yield
        finally:
            torch.nn.Module.to(self.vae, dtype)

    def _encode_poses(self, poses: Sequence[Image.Image], height: int, width: int) -> torch.Tensor:
        """(F, C, h, w), once a video: every window takes its frames from it.

        Chunks are shared out among the processes, but the first, by which each of them knows the size.
        """
        device, dtype = self._execution_device, self.pose_net.dtype
        latents, starts = torch.empty(0), range(0, len(poses), POSE_CHUNK)
        others = starts[1:]
        for start in (0, *self.processes.own(others)):
            chunk = [pose.convert("RGB") for pose in poses[start : start + POSE_CHUNK]]
            resized = [np.asarray(pose.resize((width, height), Image.Resampling.BICUBIC)) for pose in chunk]
            pixels = rearrange(torch.from_numpy(np.stack(resized)).to(device), "n h w rgb -> n rgb h w")
            features = self.pose_net((pixels.float() / 127.5 - 1).to(dtype))
            if start == 0:
                latents = self._allocate_pose_latents((len(poses), *features.shape[1:]), features)
            latents[start : start + len(chunk)] = features.to(latents.device)
        for start, rank in zip(others, self.processes.owners(len(others)), strict=True):
            self.processes.copy(latents[start : start + POSE_CHUNK], rank)
        return latents

    @staticmethod
    def _allocate_pose_latents(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """On the device of `like` while they take a small share of its free memory, else pinned on the CPU."""
        free = torch.cuda.mem_get_info(like.device)[0] if like.is_cuda else np.inf
        if np.prod(shape) * like.element_size() <= free * DEVICE_SHARE_FOR_POSES:
            return like.new_empty(shape)
        return torch.empty(shape, dtype=like.dtype, pin_memory=True)

    @torch.no_grad()
    def denoise(
        self,
        conditions: Conditions,
        *,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        min_guidance_scale: float | None = None,
        tile_size: int = 16,
        overlap: int = 4,
        cfg_batch: int | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        refine_x0: RefineX0 | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        checkpoint: Checkpoint | None = None,
        fresh_noise: bool = False,
        schedule: str = "karras",
        guidance_interval: Sequence[float] = EVERYWHERE,
        windows: str = "overlapping",
        cache: int = 1,
    ) -> torch.Tensor:
        """Sample the latents of the whole video, (1, F, 4, h, w) float32 on the execution device.

        Args:
            guidance_scale: of the last frame; 1 or less (with the minimum) skips the unconditional branch.
            min_guidance_scale: of the first frame, from which it grows along a line; None: the same for all.
            tile_size, overlap: frames that the UNet sees at once, at least 2, and that windows share, fewer than these.
            cfg_batch: 1 or 2 guidance branches at a time; None decides by memory.
            generator: draws one window of initial latents, repeated along the video, or with `fresh_noise` all of them.
            latents: (1, F, 4, h, w) initial latents instead, already times the scheduler's initial sigma.
            callback_on_step_end: as in diffusers: `callback(pipe, step, timestep, {"latents": …})`; a `latents` in
                the dict that it returns replaces them.
            schedule: `karras`, the scheduler's own noise levels, or `ays`: see `ays_sigmas`.
            guidance_interval: the lowest and the highest noise level with guidance; one branch runs outside.
            windows: `overlapping`, or `shifted`: with no overlap and other borders at each step.
            cache: run the UNet's deep layers at every so many steps; 1: at each.

        Raises:
            InputError: an argument is out of range.
            NonFiniteError: the latents hold NaN or infinity.
        """
        if num_inference_steps < 1:
            raise InputError(f"num_inference_steps {num_inference_steps} is below 1")
        num_frames, device = conditions.num_frames, self._execution_device
        first_windows, *later = windows_of_steps(windows, num_frames, tile_size, overlap, num_inference_steps)
        set_timesteps(self.scheduler, num_inference_steps, schedule, device)
        if latents is None:
            latents = initial_latents(self.unet, conditions, tile_size, device, generator, fresh_noise)
            latents = latents * self.scheduler.init_noise_sigma
        first = guidance_scale if min_guidance_scale is None else min_guidance_scale
        self._guidance_scale = torch.linspace(first, guidance_scale, num_frames)
        self._num_timesteps = num_inference_steps

        def call_back(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
            if callback_on_step_end is None:
                return latents
            tensors = {name: {"latents": latents}[name] for name in callback_on_step_end_tensor_inputs}
            return (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)

        self.denoiser = WindowedDenoiser(
            self.unet,
            conditions,
            first_windows,
            device,
            cfg_batch=cfg_batch,
            later=later if windows == "shifted" else (),
            cache=cache,
            processes=self.processes,
        )
        with self.progress_bar(total=self.denoiser.num_windows(num_inference_steps)) as progress:
            return denoise(
                self.denoiser,
                self.scheduler,
                self.processes.copy(latents.to(device).contiguous()),
                self._guidance_scale,
                refine_x0=refine_x0,
                on_step_end=call_back,
                on_window=progress.update,
                checkpoint=checkpoint,
                guidance_interval=guidance_interval,
            )

    @property
    def decoding_vae(self) -> torch.nn.Module:
        """The VAE that decodes the video: the preview's where there is one."""
        return self.preview_vae or self.vae

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, decode_chunk_size: int = 4, first_frame: int = 0) -> Iterator[np.ndarray]:
        """Decode to pixels, yielding each chunk as it is ready; no more than one chunk is ever in float.

        Args:
            latents: (1, F, 4, h, w), as `denoise` returns them.
            decode_chunk_size: frames at a time; the temporal decoder mixes those, so it is part of the result.
            first_frame: begin with this one; a multiple of the chunk's size gives the same frames as beginning at 0.

        Yields:
            (n, H, W, 3) uint8 RGB on the host; of several processes the first one has them all, and the others none.

        Raises:
            NonFiniteError: a frame holds NaN or infinity.
        """
        if decode_chunk_size < 1:
            raise InputError(f"decode_chunk_size {decode_chunk_size} is below 1")

        def decoded(start: int) -> np.ndarray:
            frames = decode_frames(self.decoding_vae, latents[0, start : start + decode_chunk_size])
            if not frames.isfinite().all():
                raise NonFiniteError(
                    f"frames {start} to {start + len(frames) - 1} hold NaN or infinity after decoding; try --dtype "
                    "bf16 or fp32, or --vae_device cpu"
                )
            pixels = (frames / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
            return rearrange(pixels, "n rgb h w -> n h w rgb").cpu().numpy()

        yield from self.processes.in_order(range(first_frame, latents.shape[1], decode_chunk_size), decoded)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image,
        poses: Sequence[Image.Image],
        face_embedding: torch.Tensor | np.ndarray,
        height: int = 512,
        width: int = 512,
        *,
        fps: int = 7,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        generator: torch.Generator | None = None,
        decode_chunk_size: int = 4,
        output_type: str = "pil",
        return_dict: bool = True,
        **sampling: Any,
    ) -> StableVideoDiffusionPipelineOutput | tuple:
        """Animate `image` with `poses`: `encode`, `denoise` and `decode` in turn; they explain the arguments.

        Args:
            output_type: `pil` (a list of F images in a list), `np` ((1, F, H, W, 3) in 0..1), `pt` ((1, F, 3, H, W)
                in 0..1) or `latent` ((1, F, 4, h, w)): `.frames` of the output, or a tuple's only element.
            sampling: arguments of `denoise`, such as `num_inference_steps`, `guidance_scale` and `tile_size`.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise InputError(f"output_type {output_type!r} is unknown; use pil, np, pt or latent")
        conditions = self.encode(
            image,
            poses,
            face_embedding,
            height,
            width,
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
            generator=generator,
        )
        frames: Any = self.denoise(conditions, generator=generator, **sampling)
        if output_type != "latent":
            pixels = np.concatenate(list(self.decode(frames, decode_chunk_size)))
            pictures = output_type == "pil"
            frames = [list(map(Image.fromarray, pixels))] if pictures else pixels[None].astype(np.float32) / 255
            if output_type == "pt":
                frames = rearrange(torch.from_numpy(frames), "b n h w rgb -> b n rgb h w")
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else (frames,)
