"""Every path in half precision on the CPU: finite, and as near to float32 as its number of digits allows."""

import copy

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from transformers import CLIPImageProcessorPil

from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer
from animation.media.images import FrameFolder, load_photo
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.pipeline import AnimationPipeline
from animation.training.step import Batch, FrozenEncoders, TrainableParts, training_step
from tests.conftest import relative_error
from tests.synthetic import SCHEDULER_CONFIG, tiny_arcface

HALF = torch.float16
LOSS_SCALE = 128.0  # as a gradient scaler would find it


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_half(components):
    return {name: copy.deepcopy(model).to(HALF) for name, model in components.items()}


def build(components):
    pipeline = AnimationPipeline(
        **components,
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessorPil(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def half(components):
    return in_half(components)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
@torch.no_grad()
def test_face_encoder(components, half, scale):
    """Raw embeddings of any length: a face that is not there is zeros."""
    inputs = scale * random(2, 512), random(2, 1, 64, seed=1)
    found = half["face_encoder"](*(tensor.to(HALF) for tensor in inputs))
    assert relative_error(found, components["face_encoder"](*inputs)) < 1e-2


@torch.no_grad()
def test_a_new_face_encoder(components):
    """Its tokens are zeros, which a LayerNorm divides by the root of its epsilon."""
    face_encoder = FaceEncoder.from_config(components["face_encoder"].config).to(HALF)
    assert not face_encoder(random(1, 512).to(HALF), random(1, 1, 64, seed=1).to(HALF)).any()


@torch.no_grad()
def test_pose_net(components, half):
    poses = random(2, 3, 64, 64).clamp(-1, 1)
    found = half["pose_net"](poses.to(HALF))
    assert relative_error(found, components["pose_net"](poses)) < 1e-2


@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize(("token_scale", "tolerance"), [(0.0, 1e-2), (1.0, 1e-2), (30.0, 0.1), (300.0, 0.3)])
@torch.no_grad()
def test_unet(components, half, token_scale, tolerance, folding):
    """Both attention processors, with a conditional and an unconditional sample, on face tokens of any scale.

    Large keys multiply what rounding does to the queries, in either form of the attention.
    """
    inputs = {
        "sample": random(2, 3, 8, 8, 8),
        "encoder_hidden_states": torch.cat([random(1, 1, 64, seed=1), token_scale * random(1, 4, 64, seed=2)], dim=1),
        "added_time_ids": torch.tensor([[6, 127, 0.02]]).repeat(2, 1),
        "pose_latents": random(1, 3, 32, 8, 8, seed=3),
    }
    expected = components["unet"](timestep=torch.tensor(0.7), **inputs).sample
    unet = half["unet"]
    unet.set_folding(folding)
    found = unet(timestep=torch.tensor(0.7), **{name: tensor.to(HALF) for name, tensor in inputs.items()}).sample
    unet.set_folding(True)
    assert relative_error(found, expected) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("new_face_encoder", [False, True])
def test_the_whole_pipeline(components, case, new_face_encoder):
    if new_face_encoder:
        config = components["face_encoder"].config
        components = {**components, "face_encoder": FaceEncoder.from_config(config).eval()}
    latents = 700 * random(1, 4, 4, 8, 8, seed=1)

    def run(pipeline):
        return pipeline(
            load_photo(case / "reference.png"),
            list(FrameFolder(case / "poses"))[:4],
            np.load(case / "face_embedding.npy"),
            64,
            64,
            num_inference_steps=2,
            tile_size=3,
            overlap=1,
            latents=latents,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames

    found, expected = (run(build(models)) for models in (in_half(components), components))
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 1e-2


@pytest.mark.slow
def test_a_step_of_face_optimisation(components, half):
    """The decoder in half precision, with gradients; the extractor and the latents in float32."""
    latents, boxes = random(1, 3, 4, 4, 4) * 0.5, [FaceBox(4, 26, 5, 28), None, FaceBox(2, 25, 6, 30)]
    arcface, refined = tiny_arcface(), []
    for vae in (components["vae"], half["vae"]):
        optimizer = FaceOptimizer(
            vae, arcface, random(1, 512, seed=4), boxes, num_iterations=2, decode_chunk_size=2, progress=False
        )
        refined.append(optimizer(latents, 0, 4))
    expected, found = (x0 - latents for x0 in refined)
    assert found.isfinite().all()
    assert relative_error(found, expected) < 0.4  # Adam's first steps are little more than the gradient's signs
    assert relative_error(found, -expected) > 1  # a control that must fail


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_a_training_step(components, half, fresh):
    """Autocast as the training engine does it: trained weights in float32, frozen encoders in half precision."""
    face_encoder, pose_net = components["face_encoder"], components["pose_net"]
    if fresh:
        torch.manual_seed(0)
        face_encoder, pose_net = FaceEncoder.from_config(face_encoder.config), PoseNet.from_config(pose_net.config)
    parts = TrainableParts(*map(copy.deepcopy, (pose_net, face_encoder, components["unet"]))).requires_grad_(True)
    frames, size = 2, 128  # at 64 the middle of the UNet is one pixel, and normalising two numbers loses their digits
    batch = Batch(
        reference=random(1, 3, size, size).clamp(-1, 1),
        poses=random(1, frames, 3, size, size, seed=1).clamp(-1, 1),
        face_masks=torch.ones(1, frames, 1, size, size),
        face_embedding=random(1, 512, seed=2),
        sigma=torch.tensor([1.7]),
        dropout=torch.ones(1),
        noise=random(1, frames, 4, size // 8, size // 8, seed=3),
        reference_noise=random(1, 3, size, size, seed=4),
        posterior_noise=torch.zeros(1, frames, 4, size // 8, size // 8),
        reference_posterior_noise=torch.zeros(1, 4, size // 8, size // 8),
        pixels=random(1, frames, 3, size, size, seed=5).clamp(-1, 1),
    )

    def run(models, enabled):
        parts.zero_grad()
        encoders = FrozenEncoders(models["vae"], models["image_encoder"], CLIPImageProcessorPil())
        with torch.autocast("cpu", HALF, enabled=enabled):
            result = training_step(parts, encoders, batch)
        (result.losses.mean() * LOSS_SCALE).backward()
        grads = {name: p.grad / LOSS_SCALE for name, p in parts.named_parameters() if p.grad is not None}
        return result.losses.mean().item(), grads

    expected_loss, expected = run(components, False)
    loss, found = run(half, True)
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert found.keys() == expected.keys()
    assert all(gradient.isfinite().all() for gradient in found.values())
    everything = (torch.cat([gradient.flatten() for gradient in gradients.values()]) for gradients in (found, expected))
    assert relative_error(*everything) < 2e-2
    assert found["face_encoder.fusion_model.proj_out.weight"].any()
