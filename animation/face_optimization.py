"""HJB-based face optimisation (arXiv 2411.17697, section 3.4): gradient steps on the predicted clean latents.

The loss is a mean over frames, and the decoder mixes no frames beyond a chunk, so its gradient is a sum over chunks:
one chunk's decoder graph is all that is ever in memory, whatever the length of the video.
"""

import logging
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from animation.decoding import LATENT_SIZE, decode_frames, vae_device
from animation.errors import NonFiniteError
from animation.face.boxes import FaceBox
from animation.face.settings import FaceInputs, FaceOptimizationSettings
from animation.modules.arcface import FACE_SIZE
from animation.networks import ANEW, Networks
from animation.parallel import ALONE, Processes
from animation.pipeline import AnimationPipeline
from animation.report import RunReport
from animation.weights.loading import load_arcface

logger = logging.getLogger(__name__)

LEARNING_RATE = 0.1  # of the first of all steps, falling along a line to 0 after the last
NOTABLE_FALL = 1e-3  # of the cosine similarity: above the noise of half precision


def bilinear_weights(size: int) -> Tensor:
    """The (112, size) float32 matrix that resizes `size` pixels as `F.interpolate` does without `align_corners`."""
    scale = float(np.float32(size / FACE_SIZE))  # it and the places are rounded to float32 where `F.interpolate` does
    places = ((torch.arange(FACE_SIZE, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    distances = places.clamp(0, size - 1)[:, None] - torch.arange(size)
    return (1 - distances.abs()).clamp(min=0)


def resize_face(face: Tensor) -> Tensor:
    """Resize a picture, (3, h, w) → (3, 112, 112), bilinear and without anti-aliasing, as ArcFace's crops were.

    Matrix products, as the gradient of `F.interpolate` is not deterministic on CUDA.
    """
    rows, columns = (bilinear_weights(size).to(face.device) for size in face.shape[1:])
    return rows @ face @ columns.T


def crop_faces(frames: Tensor, boxes: Sequence[FaceBox]) -> Tensor:
    """Cut one face out of each frame, (n, 3, H, W) float32 → (n, 3, 112, 112), by `resize_face`."""
    crops = [
        resize_face(frame[:, box.y_min : box.y_max + 1, box.x_min : box.x_max + 1])
        for frame, box in zip(frames, boxes, strict=True)
    ]
    return torch.stack(crops)


def latent_window(boxes: Sequence[FaceBox | None], margin: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the h×w latents that hold all boxes (at least one) and `margin` latents around them."""
    present = [box for box in boxes if box is not None]
    top = min(box.y_min for box in present) // LATENT_SIZE - margin
    bottom = max(box.y_max for box in present) // LATENT_SIZE + margin + 1
    left = min(box.x_min for box in present) // LATENT_SIZE - margin
    right = max(box.x_max for box in present) // LATENT_SIZE + margin + 1
    return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))


def gradient_scale(gradient: Tensor) -> Tensor:
    """The power of two that brings a gradient's largest value to 0.5 … 1: half precision would round it to zero."""
    return gradient.abs().max().clamp_min(1e-30).log2().ceil().exp2()


class FaceOptimizer:
    """A `RefineX0` that pulls the faces of the decoded prediction towards a reference embedding.

    At each of its steps an Adam made anew moves the latents `num_iterations` times down the gradient of the mean of
    |1 − cos(embedding of the face, reference)| over the frames that have a face, at a rate of 0.1·(1 − step/steps).

    Args:
        vae: decodes. Half-precision ones get gradients scaled to their range; latents stay in float32.
        extractor: embeds faces, (n, 3, 112, 112) float32 RGB in −1..1 → (n, D); on the VAE's device.
        reference: (D,) or (1, D), the embedding to reach.
        boxes: for each frame of the video its face in pixels, or None.
        num_iterations: gradient steps at a denoising step.
        start_step, end_step: the first and the last denoising step at which to work, both included.
        decode_chunk_size: frames decoded together; the decoder mixes them, so it is part of the result.
        crop_margin: decode only the latents around a chunk's faces and so many beyond, on each side: approximate, as
            the decoder's normalisation and attention see the crop alone. None: whole frames.
        checkpointing: see `decode_frames`.
        processes: that share the chunks; their gradients are summed.

    Attributes:
        similarities: for each step done its number and the mean cosine similarity before and after.
    """

    def __init__(
        self,
        vae: torch.nn.Module,
        extractor: Callable[[Tensor], Tensor],
        reference: Tensor,
        boxes: Sequence[FaceBox | None],
        *,
        num_iterations: int = 3,
        start_step: int = 0,
        end_step: int = 20,
        decode_chunk_size: int = 4,
        crop_margin: int | None = None,
        checkpointing: bool = True,
        progress: bool = True,
        processes: Processes = ALONE,
    ):
        self.vae, self.extractor = vae, extractor
        self.device = vae_device(vae)
        self.reference = reference.reshape(1, -1).to(self.device, torch.float32)
        self.boxes = list(boxes)
        self.num_iterations, self.start_step, self.end_step = num_iterations, start_step, end_step
        self.crop_margin = sys.maxsize if crop_margin is None else crop_margin
        self.checkpointing, self.progress, self.processes = checkpointing, progress and processes.is_first, processes
        self.num_faces = sum(box is not None for box in self.boxes)
        if self.num_faces == 0:
            raise ValueError("no frame has a face: there is nothing to optimise")
        chunks = [slice(i, i + decode_chunk_size) for i in range(0, len(self.boxes), decode_chunk_size)]
        with_faces = [chunk for chunk in chunks if any(box is not None for box in self.boxes[chunk])]
        self.chunks = processes.own(with_faces)
        self.similarities: list[dict] = []

    def __call__(self, x0: Tensor, step: int, num_steps: int) -> Tensor:
        """Refine (1, F, 4, h, w) float32 latents at a denoising step, counted from 0; raises NonFiniteError."""
        if not self.start_step <= step <= self.end_step:
            return x0
        name = f"step {step + 1} of {num_steps}"
        latents = x0[0].detach().to(self.device, torch.float32, copy=True)
        optimizer = torch.optim.Adam([latents], lr=LEARNING_RATE * (1 - step / num_steps))
        similarities = []
        total = (self.num_iterations + 1) * len(self.chunks)
        with tqdm(total=total, desc=f"faces, {name}", unit="chunk", leave=False, disable=not self.progress) as bar:
            for _ in range(self.num_iterations):
                similarity, latents.grad = self.gradient(latents, bar.update)
                if not latents.grad.isfinite().all():
                    raise NonFiniteError(
                        f"the faces' gradients hold NaN or infinity at {name}; try --dtype bf16 or fp32"
                    )
                similarities.append(similarity)
                optimizer.step()
            after = self.similarity(latents, bar.update)
        before = similarities[0].item() if similarities else after
        self.similarities.append({"step": step, "cosine_before": round(before, 5), "cosine_after": round(after, 5)})
        if after < before - NOTABLE_FALL:
            logger.warning(
                f"{name}: the faces' similarity to the photo fell from {before:.3f} to {after:.3f}; fewer "
                "--num_optimization_iter or a later --start_refine_step may help"
            )
        return latents[None].to(x0.device, x0.dtype)

    def gradient(self, latents: Tensor, on_chunk: Callable[[], object] = lambda: None) -> tuple[Tensor, Tensor]:
        """The mean cosine similarity over the faces of (F, 4, h, w) float32 latents, and the loss's gradient.

        It is accumulated chunk by chunk, with a call of `on_chunk` after each; those without a face are not decoded.
        """
        gradient = torch.zeros_like(latents)
        total = latents.new_zeros(())
        for chunk in self.chunks:
            rows, columns = latent_window(self.boxes[chunk], self.crop_margin, *latents.shape[-2:])
            with torch.enable_grad():
                part = latents[chunk, :, rows, columns].detach().requires_grad_()
                frames = decode_frames(self.vae, part, self.checkpointing)
                pixels = frames.detach().requires_grad_()
                similarities = self._similarities(pixels, chunk, rows, columns)
                loss = (1 - similarities).abs().sum() / self.num_faces
                (pixel_gradient,) = torch.autograd.grad(loss, pixels)
                scale = gradient_scale(pixel_gradient)
                (part_gradient,) = torch.autograd.grad(frames, part, pixel_gradient / scale)
            gradient[chunk, :, rows, columns] = part_gradient * scale
            total += similarities.detach().sum()
            del frames, pixels, similarities, loss, pixel_gradient, part_gradient  # before the next chunk's
            on_chunk()
        return self.processes.sum(total) / self.num_faces, self.processes.sum(gradient)

    @torch.no_grad()
    def similarity(self, latents: Tensor, on_chunk: Callable[[], object] = lambda: None) -> float:
        """The mean cosine similarity over the faces of (F, 4, h, w) latents."""
        total = latents.new_zeros(())
        for chunk in self.chunks:
            rows, columns = latent_window(self.boxes[chunk], self.crop_margin, *latents.shape[-2:])
            frames = decode_frames(self.vae, latents[chunk, :, rows, columns])
            total += self._similarities(frames, chunk, rows, columns).sum()
            on_chunk()
        return (self.processes.sum(total) / self.num_faces).item()

    def _similarities(self, frames: Tensor, chunk: slice, rows: slice, columns: slice) -> Tensor:
        """Cosine similarities of a decoded chunk's faces to the reference: (n, 3, H, W) → (faces,)."""
        top, left = rows.start * LATENT_SIZE, columns.start * LATENT_SIZE
        faces = [(i, box) for i, box in enumerate(self.boxes[chunk]) if box is not None]
        boxes = [FaceBox(box.y_min - top, box.y_max - top, box.x_min - left, box.x_max - left) for _, box in faces]
        crops = crop_faces(frames.clamp(-1, 1)[[i for i, _ in faces]], boxes)
        return F.cosine_similarity(self.extractor(crops), self.reference)


def photo_face_pixels(face: Image.Image, resampling: str = "antialias") -> Tensor:
    """A face cut out of a photo as ArcFace takes it: (1, 3, 112, 112) float32, RGB in −1..1.

    `antialias` is Pillow's bilinear, which averages what it reduces; `plain` resizes it as the frames' faces.
    """
    if resampling == "antialias":
        face = face.resize((FACE_SIZE, FACE_SIZE), Image.Resampling.BILINEAR)
    pixels = rearrange(torch.from_numpy(np.asarray(face, dtype=np.float32) / 127.5 - 1), "h w rgb -> rgb h w")
    return resize_face(pixels)[None]


@torch.no_grad()
def build_face_optimizer(
    settings: FaceOptimizationSettings,
    inputs: FaceInputs,
    pipeline: AnimationPipeline,
    report: RunReport,
    networks: Networks = ANEW,
) -> FaceOptimizer:
    """Load ArcFace beside a pipeline's decoder and make the hook that a run with face optimisation refines with.

    The report gets the similarities of each step, which grow while the run goes on. Raises CheckpointError.
    """
    vae = pipeline.decoding_vae
    extractor = networks.open(load_arcface, inputs.extractor_path).to(vae_device(vae))
    report.add_files([inputs.extractor_path, *inputs.face_files])
    face = photo_face_pixels(inputs.photo_face, settings.face_resample).to(extractor.device)
    optimizer = FaceOptimizer(
        vae,
        extractor,
        extractor(face),
        inputs.face_boxes,
        num_iterations=settings.num_optimization_iter,
        start_step=settings.start_refine_step,
        end_step=settings.end_refine_step,
        decode_chunk_size=settings.decode_chunk_size,
        crop_margin=settings.hjb_crop,
        processes=pipeline.processes,
    )
    of_all = f"{optimizer.num_faces} of {len(optimizer.boxes)}"
    logger.info(f"faces of {of_all} frames are optimised in {len(optimizer.chunks)} chunks a step")
    report.facts["face_optimization"] = optimizer.similarities
    return optimizer
