"""The model of memory against what torch's allocator counts on small networks, stage by stage."""

import contextlib
import copy
import functools
import time

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, AutoencoderTiny, EulerDiscreteScheduler
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.pipeline import AnimationPipeline
from animation.planning import memory
from animation.planning.memory import META, Job, Rehearsal, peak_bytes
from animation.weights.loading import load_components
from tests import synthetic
from tests.allocations import peak_allocated
from tests.conftest import checkpoint_paths

TOLERANCE = 0.15
TINY_VAE = {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4}


def make_components(dtype=torch.float32, tiny_vae=False):
    """What an AnimationPipeline of small networks is made of."""
    components = {name: network.to(dtype) for name, network in synthetic.tiny_components().items()}
    if tiny_vae:
        components["preview_vae"] = synthetic.randomise(AutoencoderTiny(**TINY_VAE), 9).to(dtype)
    return components | {
        "scheduler": EulerDiscreteScheduler(**synthetic.SCHEDULER_CONFIG),
        "feature_extractor": CLIPImageProcessorPil(size={"shortest_edge": 224}),
    }


def on_meta(components):
    """The same networks' shapes."""
    return {
        name: copy.deepcopy(part).to(META) if isinstance(part, torch.nn.Module) else part
        for name, part in components.items()
    }


@functools.cache
def networks(dtype, tiny_vae):
    """Components, a warmed-up pipeline of them, and a rehearsal."""
    components = make_components(dtype, tiny_vae)
    arcface = synthetic.tiny_arcface()
    pipeline = AnimationPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    measure(pipeline, arcface, job_of("one frame"))  # warm: what libraries make once does not count
    return pipeline, arcface, Rehearsal(on_meta(components), "cpu", copy.deepcopy(arcface).to(META))


def measure(pipeline, arcface, job, wanted=("encode", "denoise", "decode")):
    """The peaks of the wanted stages of a real run, bytes beyond what was there before the run."""
    photo = Image.new("RGB", (job.width, job.height))
    poses = [Image.new("RGB", (job.width, job.height))] * job.num_frames
    kept = {"latents": torch.zeros(1, job.num_frames, 4, job.height // 8, job.width // 8)}

    def encode():
        kept["conditions"] = pipeline.encode(photo, poses, np.zeros(512), job.height, job.width)

    def denoise():
        kept["latents"] = pipeline.denoise(
            kept["conditions"],
            job.num_inference_steps,
            3.0 if job.guided else 1.0,
            None,
            job.tile_size,
            job.frames_overlap,
            job.cfg_batch,
        )

    def refine():
        left, right, top, bottom = job.width // 3, 2 * job.width // 3, job.height // 8, 3 * job.height // 8
        boxes = [FaceBox(y_min=top, y_max=bottom, x_min=left, x_max=right)] * job.num_frames
        optimizer = FaceOptimizer(
            pipeline.decoding_vae,
            arcface,
            torch.ones(1, arcface.config.embedding_dim),
            boxes,
            2,
            0,
            1,
            job.decode_chunk_size,
            job.hjb_crop,
            progress=False,
        )
        with torch.no_grad():
            optimizer(kept["latents"], 0, 2)

    def decode():
        for _ in pipeline.decode(kept["latents"], job.decode_chunk_size):
            pass

    def upcast():
        with pipeline._upcast_vae():  # half-precision weights are made anew after encoding
            pass

    peaks = {}
    if "encode" in wanted:
        peaks["encode"] = peak_allocated(encode, upcast)
    else:
        encode()
    there = sum(tensor.nbytes for tensor in vars(kept["conditions"]).values())
    for stage in (denoise, refine, decode):
        if stage.__name__ in wanted:
            waiting = 0 if stage is denoise else kept["latents"].nbytes
            peaks[stage.__name__] = there + waiting + peak_allocated(stage)
    return peaks


def modelled(rehearsal, job):
    weights = sum(rehearsal.weights.values())
    return {name: peak_bytes(stage, rehearsal, "none") - weights for name, stage in rehearsal.run(job).items()}


BASE = {"width": 64, "height": 64, "num_frames": 8, "tile_size": 4, "frames_overlap": 1, "num_inference_steps": 1}
JOBS = {  # what differs, and in which stages that is seen
    "base": ({}, ("encode", "denoise", "decode")),
    "large": ({"width": 128, "height": 192, "num_frames": 2}, ("encode", "denoise", "decode")),
    "one frame": ({"num_frames": 1}, ("encode", "denoise", "decode")),
    "long": ({"num_frames": 14, "frames_overlap": 0, "num_inference_steps": 2}, ("encode", "denoise")),
    "wide tile": ({"tile_size": 8}, ("denoise",)),
    "one branch at a time": ({"cfg_batch": 1}, ("denoise",)),
    "unguided": ({"guided": False}, ("denoise",)),
    "one frame decoded": ({"decode_chunk_size": 1}, ("decode",)),
    "all frames decoded": ({"decode_chunk_size": 8}, ("decode",)),
    "faces": ({"refined_steps": 1, "decode_chunk_size": 2}, ("refine",)),
    "faces in crops": ({"refined_steps": 1, "decode_chunk_size": 2, "hjb_crop": 1}, ("refine",)),
}
FEW = ("base", "large", "faces")
KINDS = [(torch.float32, False, tuple(JOBS)), (torch.bfloat16, True, FEW)]


def job_of(name, **options):
    """One of the jobs, with other options."""
    return Job(**BASE | JOBS[name][0] | options)


@functools.cache
def measured(dtype, tiny_vae, name):
    """The measured peaks of one of the jobs."""
    pipeline, arcface, _ = networks(dtype, tiny_vae)
    return measure(pipeline, arcface, job_of(name), JOBS[name][1])


@pytest.mark.parametrize(("dtype", "tiny_vae", "name"), [(*kind[:2], name) for kind in KINDS for name in kind[2]])
def test_the_model_meets_the_measurement(dtype, tiny_vae, name):
    expected = measured(dtype, tiny_vae, name)
    found = modelled(networks(dtype, tiny_vae)[2], job_of(name))
    assert list(expected) == list(JOBS[name][1])
    print(dtype, name, {stage: (round(found[stage] / peak, 3), peak) for stage, peak in expected.items()})
    for stage, peak in expected.items():
        assert found[stage] == pytest.approx(peak, rel=TOLERANCE), stage


@pytest.mark.parametrize(
    ("name", "stage", "ignored"),
    [
        ("wide tile", "denoise", {"tile_size": 4}),
        ("one branch at a time", "denoise", {"cfg_batch": 2}),
        ("unguided", "denoise", {"guided": True}),
        ("one frame decoded", "decode", {"decode_chunk_size": 4}),
        ("large", "denoise", {"width": 128, "height": 128}),
        ("large", "encode", {"width": 128, "height": 128}),
        ("one frame", "denoise", {"num_frames": 8}),
        ("faces in crops", "refine", {"hjb_crop": None}),
        ("faces", "refine", {"decode_chunk_size": 1}),
    ],
)
def test_a_model_that_ignores_a_lever_misses(name, stage, ignored):
    found = modelled(networks(torch.float32, False)[2], job_of(name, **ignored))
    assert found[stage] != pytest.approx(measured(torch.float32, False, name)[stage], rel=TOLERANCE)


def test_a_model_of_the_wrong_number_format_misses():
    found = modelled(networks(torch.float32, False)[2], Job(**BASE))["denoise"]
    assert found != pytest.approx(measured(torch.bfloat16, True, "base")["denoise"], rel=TOLERANCE)


def test_a_model_whose_attention_makes_its_matrix_misses(monkeypatch):
    rehearsal = Rehearsal(on_meta(make_components()), "cpu")
    monkeypatch.setattr(memory, "FusedAttention", contextlib.nullcontext)
    found = modelled(rehearsal, job_of("large"))["denoise"]
    assert found != pytest.approx(measured(torch.float32, False, "large")["denoise"], rel=TOLERANCE)


def test_a_rehearsal_is_repeatable_and_leaves_nothing():
    rehearsal = networks(torch.float32, False)[2]
    jobs = [job_of(name) for name in ("base", "large", "base", "one frame", "base")]
    found = [modelled(rehearsal, job) for job in jobs]
    assert found[0] == found[2] == found[4]


def test_offloading_leaves_what_is_not_at_work_out():
    rehearsal = networks(torch.float32, False)[2]
    weights = rehearsal.weights
    stage = rehearsal.run(Job(**BASE))["denoise"]
    everything, model, layer = (peak_bytes(stage, rehearsal, offload) for offload in ("none", "model", "sequential"))
    assert everything - model == sum(weights.values()) - weights["unet"] - weights["arcface"]
    assert layer < model < everything


def test_networks_whose_numbers_are_not_read(checkpoint):
    components = load_components(**checkpoint_paths(checkpoint), device="meta")
    networks_read = [part for part in components.values() if isinstance(part, torch.nn.Module)]
    assert all(tensor.is_meta for part in networks_read for tensor in part.parameters())
    rehearsal = Rehearsal(components, "cpu")
    assert modelled(rehearsal, Job(**BASE)) == modelled(networks(torch.float32, False)[2], Job(**BASE))
    with pytest.raises(ValueError, match="give arcface"):
        rehearsal.run(Job(**BASE, refined_steps=1))


@functools.cache
def released():
    """The released networks' shapes."""
    with torch.device(META):
        unet = PoseGuidedUNet()
        parts = {
            "unet": unet,
            "pose_net": PoseNet(),
            "face_encoder": FaceEncoder(hidden_dim=1024, dim=1024, image_dim=1024, heads=16),
            "vae": AutoencoderKLTemporalDecoder(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                layers_per_block=2,
            ),
            "image_encoder": CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1280,
                    intermediate_size=5120,
                    num_hidden_layers=32,
                    num_attention_heads=16,
                    patch_size=14,
                    projection_dim=1024,
                )
            ),
        }
    parts = {name: part.to(torch.float16).eval().requires_grad_(False) for name, part in parts.items()}
    others = {name: part for name, part in make_components().items() if name in ("scheduler", "feature_extractor")}
    return Rehearsal(parts | others, "cuda")


def test_the_released_networks():
    rehearsal = released()
    start = time.process_time()
    stages = rehearsal.run(Job(width=512, height=512, num_frames=16, num_inference_steps=1, cfg_batch=1))
    print(
        {name: (peak_bytes(stage, rehearsal, "model") / 2**30, stage.flops / 1e12) for name, stage in stages.items()},
        time.process_time() - start,
    )
    assert sum(rehearsal.weights.values()) / 2**30 == pytest.approx(4.3, abs=0.3)  # half precision
    conditional_and_not = 2 * 20.3e12  # two branches of 16 frames, counted by hand from the layers
    assert stages["denoise"].flops == pytest.approx(conditional_and_not, rel=0.05)
    assert stages["decode"].flops / 16 == pytest.approx(3.0e12, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["none", "model"])
def test_the_model_meets_cuda(offload):
    with torch.device("cuda"):
        unet = PoseGuidedUNet(
            **synthetic.UNET_CONFIG | {"block_out_channels": (128, 256, 512, 512), "num_attention_heads": (2, 4, 8, 8)}
        )
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(64, 128, 256, 256), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
        )
        pose_net = PoseNet(out_channels=128)
    larger = {"unet": unet, "vae": vae, "pose_net": pose_net}
    larger = {name: part.half().eval().requires_grad_(False) for name, part in larger.items()}
    components = make_components(torch.float16) | larger
    rehearsal = Rehearsal(on_meta(components), "cuda")
    pipeline = AnimationPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda") if offload == "none" else pipeline.enable_model_cpu_offload(device="cuda")
    job = Job(width=256, height=256, num_frames=20, tile_size=8, num_inference_steps=2)
    photo, poses = Image.new("RGB", (256, 256)), [Image.new("RGB", (256, 256))] * job.num_frames
    kept, found = {}, {}

    def run(name, stage):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        kept[name] = stage()
        torch.cuda.synchronize()
        found[name] = torch.cuda.max_memory_allocated()

    for _ in range(2):  # the second one is warm
        kept.clear()
        pipeline.denoiser = None
        run("encode", lambda: pipeline.encode(photo, poses, np.zeros(512), 256, 256))
        run("denoise", lambda: pipeline.denoise(kept["encode"], 2, 3.0, None, 8, 4, 2))
        run("decode", lambda: [len(frames) for frames in pipeline.decode(kept["denoise"], 4)])
        pipeline.maybe_free_model_hooks()
    expected = {name: peak_bytes(stage, rehearsal, offload) for name, stage in rehearsal.run(job).items()}
    print({name: (round(expected[name] / peak, 3), peak) for name, peak in found.items()})
    for name in ("denoise", "decode"):
        assert expected[name] == pytest.approx(found[name], rel=TOLERANCE), name
    assert expected["encode"] <= 1.5 * max(found.values())
