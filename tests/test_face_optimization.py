"""HJB's face optimisation: the recorded step, and gradients against one backward pass over everything."""

import copy

import accelerate
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file

from animation import face_optimization
from animation.decoding import RECOMPUTED_BLOCKS, decode_frames
from animation.errors import NonFiniteError
from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer, crop_faces, latent_window, photo_face_pixels, resize_face
from animation.parallel import ALONE
from animation.sampling import denoise, predicted_x0
from animation.weights.loading import load_vae
from tests.allocations import peak_allocated
from tests.conftest import relative_error
from tests.synthetic import SCHEDULER_CONFIG, tiny_arcface

FRAMES, SIZE = 5, 6  # latents a side
BOXES = [FaceBox(9, 30, 12, 35), None, FaceBox(12, 32, 10, 30), FaceBox(8, 27, 14, 40), FaceBox(16, 39, 9, 33)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Extractor:
    """Stands in for ArcFace: a linear function of a reduced crop."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, faces):
        return F.adaptive_avg_pool2d(faces, 14).flatten(1) @ self.weight.T


EXTRACTOR = Extractor(random(32, 588, seed=3) / 24)
REFERENCE = random(1, 32, seed=4)


@pytest.fixture(scope="module")
def vae(components):
    return components["vae"]


@pytest.fixture(scope="module")
def tiny_vae():
    torch.manual_seed(0)
    return (
        AutoencoderTiny(
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(16,) * 4,
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture
def latents():
    return random(FRAMES, 4, SIZE, SIZE) * 0.5


def optimizer(vae, boxes=BOXES, **changes):
    return FaceOptimizer(vae, EXTRACTOR, REFERENCE, boxes, **{"progress": False, **changes})


def naive_gradient(vae, latents, boxes, chunk_size):
    """One backward pass over all chunks, decoded by diffusers' own words."""
    latents = latents.clone().requires_grad_()
    options = {} if isinstance(vae, AutoencoderTiny) else {"num_frames": None}
    frames = []
    for chunk in latents.split(chunk_size):
        options = {key: len(chunk) for key in options}
        frames.append(vae.decode(chunk / vae.config.scaling_factor, **options).sample)
    frames = torch.cat(frames).clamp(-1, 1)
    faces = [i for i, box in enumerate(boxes) if box]
    crops = [frames[i : i + 1, :, b[0] : b[1] + 1, b[2] : b[3] + 1] for i in faces for b in [boxes[i]]]
    crops = [F.interpolate(crop, (112, 112), mode="bilinear", align_corners=False) for crop in crops]
    (1 - F.cosine_similarity(EXTRACTOR(torch.cat(crops)), REFERENCE)).abs().mean().backward()
    return latents.grad


@pytest.mark.slow
def test_the_recorded_step(reference):
    """Through the sampling loop, with its v-prediction, refinement and scheduler."""
    recorded = load_file(reference / "expected" / "hjb_step.safetensors")
    vae = load_vae(reference / "checkpoints" / "SVD" / "stable-video-diffusion-img2vid-xt" / "vae")
    step, steps = int(recorded["step_index"]), int(recorded["num_inference_steps"])
    x0 = predicted_x0(recorded["model_output"], recorded["sample"], recorded["sigma"].item())
    assert relative_error(x0, recorded["unrefined_x0"]) <= 1e-5

    def refine(chunk_size=int(recorded["decode_chunk_size"]), iterations=int(recorded["num_iterations"]), **changes):
        boxes = [FaceBox(*box) for box in recorded["boxes_ymin_ymax_xmin_xmax"].tolist()]
        return FaceOptimizer(
            vae,
            Extractor(recorded["extractor_weight"]),
            recorded["reference_embedding"],
            boxes,
            num_iterations=iterations,
            decode_chunk_size=chunk_size,
            progress=False,
            **changes,
        )

    refined = refine()(x0, step, steps)
    assert refined.shape == x0.shape
    assert relative_error(refined, recorded["expected_x0"]) <= 1e-3

    class Denoiser:
        """Returns the recorded prediction."""

        weight_sum, cache, processes = 1, 1, ALONE

        def begin_step(self, *_):
            pass

        def num_windows(self, *_):
            return 1

        def own(self, guided):
            return {0: [0]}

        def accumulate(self, *_):
            return recorded["model_output"]

    scheduler = EulerDiscreteScheduler(**SCHEDULER_CONFIG)
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas[step].item() == pytest.approx(recorded["sigma"].item(), rel=1e-4)
    scheduler.timesteps = scheduler.timesteps[step : step + 1]
    scheduler.sigmas = torch.cat([recorded["sigma"], recorded["next_sigma"]])
    scale = torch.zeros(x0.shape[1])
    hook = refine()
    previous = denoise(Denoiser(), scheduler, recorded["sample"], scale, refine_x0=lambda x0, *_: hook(x0, step, steps))
    assert relative_error(previous, recorded["expected_prev_sample"]) <= 1e-3

    # Controls that must fail: unrefined, other chunks, another place in the schedule.
    others = [x0, refine(chunk_size=3)(x0, step, steps), refine()(x0, step, steps + 1)]
    for other in others:
        assert relative_error(other, recorded["expected_x0"]) > 2e-3


@pytest.mark.parametrize("chunk_size", range(1, FRAMES + 2))
@pytest.mark.parametrize("kind", ["vae", "tiny_vae"])
def test_gradients_accumulated_equal_one_backward_pass(request, latents, kind, chunk_size):
    vae = request.getfixturevalue(kind)
    expected = naive_gradient(vae, latents, BOXES, chunk_size)
    assert expected.norm() > 1e-3
    similarity, found = optimizer(vae, decode_chunk_size=chunk_size).gradient(latents)
    assert relative_error(found, expected) <= 1e-5
    assert similarity.item() == pytest.approx(
        optimizer(vae, decode_chunk_size=chunk_size).similarity(latents), abs=1e-6
    )
    without_last = [*BOXES[:-1], None]  # a control that must fail
    assert (
        relative_error(optimizer(vae, without_last, decode_chunk_size=chunk_size).gradient(latents)[1], expected) > 0.1
    )


def test_the_chunk_size_is_part_of_the_result(vae, tiny_vae, latents):
    one, four = (optimizer(vae, decode_chunk_size=n).gradient(latents)[1] for n in (1, 4))
    assert relative_error(one, four) > 1e-3
    one, four = (optimizer(tiny_vae, decode_chunk_size=n).gradient(latents)[1] for n in (1, 4))
    assert relative_error(one, four) < 1e-5  # it mixes no frames


@pytest.mark.parametrize("kind", ["vae", "tiny_vae"])
def test_checkpointing_keeps_less_and_changes_nothing(request, latents, kind):
    vae, kept = request.getfixturevalue(kind), {}
    forwards = {name: module.forward for name, module in vae.decoder.named_modules()}
    for checkpointing in (False, True):
        kept[checkpointing] = 0

        def pack(tensor, checkpointing=checkpointing):
            kept[checkpointing] += tensor.nbytes
            return tensor

        part = latents.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            decode_frames(vae, part, checkpointing)
    assert kept[True] < 0.5 * kept[False]
    with_, without = (optimizer(vae, checkpointing=c).gradient(latents)[1] for c in (True, False))
    torch.testing.assert_close(with_, without, rtol=1e-6, atol=1e-9)
    assert {name: module.forward for name, module in vae.decoder.named_modules()} == forwards
    assert any(isinstance(module, RECOMPUTED_BLOCKS) for module in vae.decoder.modules())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decoders_get_gradients_in_their_range(vae, dtype, monkeypatch):
    """Also for a long video, whose mean over frames makes each frame's gradient small; the latents stay float32."""
    latents, boxes = random(1, 4, 4, 4) * 0.5, [FaceBox(9, 27, 8, 25)]
    half = copy.deepcopy(vae).to(dtype)
    exact = optimizer(vae, boxes)
    exact.num_faces = 10**7
    expected = exact.gradient(latents)[1]
    hook = optimizer(half, boxes, num_iterations=1)
    hook.num_faces = 10**7
    found = hook.gradient(latents)[1]
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < (0.05 if dtype == torch.float16 else 0.2)
    refined = optimizer(half, boxes, num_iterations=1)(latents[None], 0, 4)
    assert refined.dtype == torch.float32
    assert relative_error(refined.to(dtype).float(), refined) > 1e-5  # more digits than the decoder's
    if dtype == torch.float16:  # a control that must fail
        monkeypatch.setattr(face_optimization, "gradient_scale", lambda _gradient: torch.tensor(1.0))
        assert relative_error(hook.gradient(latents)[1], expected) > 0.1


def test_chunks_without_a_face_are_neither_decoded_nor_changed(vae, latents, monkeypatch):
    decoded = []

    def count(vae, part, *rest):
        decoded.append(len(part))
        return decode_frames(vae, part, *rest)

    monkeypatch.setattr(face_optimization, "decode_frames", count)
    boxes = [None, None, None, BOXES[0], None]
    refined = optimizer(vae, boxes, decode_chunk_size=2, num_iterations=2)(latents[None], 0, 4)[0]
    assert decoded == [2, 2, 2]  # two iterations and the similarity after them, one chunk each
    changed = (refined != latents).flatten(1).any(1).tolist()
    assert changed == [False, False, True, True, False]  # the decoder mixes a chunk's frames
    with pytest.raises(ValueError, match="no frame has a face"):
        optimizer(vae, [None] * FRAMES)


def test_the_face_comes_closer_and_it_is_recorded(vae, latents):
    hook = optimizer(vae, start_step=1, end_step=2)
    x0 = latents[None]
    assert hook(x0, 0, 5) is x0
    assert hook(x0, 3, 5) is x0
    kept = x0.clone()
    refined = hook(hook(x0, 1, 5), 2, 5)
    assert torch.equal(x0, kept)
    first, second = hook.similarities
    assert (first["step"], second["step"]) == (1, 2)
    assert first["cosine_before"] < first["cosine_after"] < second["cosine_after"]
    assert first["cosine_before"] == pytest.approx(hook.similarity(latents), abs=1e-5)
    assert first["cosine_after"] == pytest.approx(second["cosine_before"], abs=1e-5)
    assert second["cosine_after"] == pytest.approx(hook.similarity(refined[0]), abs=1e-5)


@pytest.mark.slow
def test_a_falling_similarity_is_a_warning(vae, latents, caplog, monkeypatch):
    optimizer(vae)(latents[None], 0, 4)
    assert "fell" not in caplog.text
    hook = optimizer(vae)

    def uphill(*args):
        similarity, gradient = FaceOptimizer.gradient(hook, *args)
        return similarity, -gradient

    monkeypatch.setattr(hook, "gradient", uphill)
    hook(latents[None], 0, 4)
    assert "step 1 of 4: the faces' similarity to the photo fell from" in caplog.text


def test_gradients_that_are_not_numbers_are_an_error(vae, latents):
    latents[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or infinity at step 3 of 4; try --dtype bf16 or fp32"):
        optimizer(vae)(latents[None], 2, 4)


def test_layers_that_are_offloaded(vae, latents):
    """Weights that are elsewhere until a layer runs, forwards and again for its gradients."""
    offloaded = accelerate.cpu_offload(copy.deepcopy(vae), torch.device("cpu"))
    assert next(offloaded.decoder.parameters()).is_meta
    expected = optimizer(vae).gradient(latents)[1]
    for checkpointing in (True, False):
        found = optimizer(offloaded, checkpointing=checkpointing).gradient(latents)[1]
        assert relative_error(found, expected) < 1e-5


def test_crop_boxes_are_inclusive():
    frames = random(2, 3, 130, 120).clamp(-1, 1)
    crops = crop_faces(frames, [FaceBox(3, 114, 5, 116), FaceBox(0, 55, 10, 65)])
    assert torch.equal(crops[0], frames[0, :, 3:115, 5:117])
    assert torch.equal(crops[1, :, 0, 0], frames[1, :, 0, 10])
    assert not torch.equal(crops[1, :, ::2, ::2], frames[1, :, :56, 10:66])


@pytest.mark.parametrize(("height", "width"), [(12, 40), (64, 112), (113, 250), (333, 500), (900, 700)])
def test_faces_are_resized_as_interpolate_does(height, width):
    """Forwards and backwards; averaging what is reduced is another picture."""
    face, gradient = random(3, height, width).clamp(-1, 1).requires_grad_(), random(3, 112, 112)
    found, expected = resize_face(face), F.interpolate(face[None], (112, 112), mode="bilinear")[0]
    assert (found - expected).abs().max() <= 1e-6
    found, expected = (torch.autograd.grad(resized, face, gradient)[0] for resized in (found, expected))
    assert (found - expected).abs().max() <= 1e-6 * max(1, expected.abs().max())
    if height > 112:
        smooth = F.interpolate(face[None], (112, 112), mode="bilinear", antialias=True)[0]
        assert relative_error(smooth, resize_face(face)) > 0.1


def test_the_photo_is_resized_with_or_without_averaging():
    pixels = (random(300, 200, 3).sigmoid() * 255).to(torch.uint8)
    photo = Image.fromarray(pixels.numpy())
    plain = photo_face_pixels(photo, "plain")
    expected = F.interpolate(pixels.permute(2, 0, 1)[None] / 127.5 - 1, (112, 112), mode="bilinear")
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-6)
    averaged = photo_face_pixels(photo)
    assert averaged.shape == plain.shape == (1, 3, 112, 112)
    assert averaged.std() < 0.8 * plain.std()


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_deterministic(vae, latents, monkeypatch):
    """torch raises at an operation that is not, and two steps give the same bits."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda")
    hook = FaceOptimizer(
        copy.deepcopy(vae).to(device), tiny_arcface().to(device), random(1, 512, seed=4), BOXES, progress=False
    )
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (hook(latents[None].to(device), 0, 4) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)


def test_windows_around_the_faces():
    boxes = [FaceBox(40, 79, 16, 31), None, FaceBox(48, 80, 8, 23)]
    assert latent_window(boxes, 0, 20, 20) == (slice(5, 11), slice(1, 4))
    assert latent_window(boxes, 2, 20, 20) == (slice(3, 13), slice(0, 6))
    assert latent_window(boxes, 50, 20, 18) == (slice(0, 20), slice(0, 18))


@pytest.mark.slow
def test_decoding_the_faces_alone_approximates(vae):
    size = 16
    latents = random(2, 4, size, size) * 0.5
    boxes = [FaceBox(56, 71, 56, 71), FaceBox(56, 71, 50, 71)]
    whole = optimizer(vae, boxes).gradient(latents)[1]
    errors = []
    for margin in (0, 2, size):
        hook = optimizer(vae, boxes, crop_margin=margin)
        found = hook.gradient(latents)[1]
        rows, columns = latent_window(boxes, margin, size, size)
        outside = torch.ones_like(found, dtype=bool)
        outside[:, :, rows, columns] = False
        assert not found[outside].any()
        errors.append(relative_error(found, whole))
    assert errors[0] > errors[1] > 0.01
    assert errors[2] == 0
    hook = optimizer(vae, boxes, crop_margin=2)
    hook(latents[None], 0, 4)
    assert hook.similarities[0]["cosine_after"] > hook.similarities[0]["cosine_before"]


def test_the_decoder_stays_frozen(vae):
    """Nothing is trained: no parameter asks for a gradient, and none holds one after a step."""
    optimizer(vae)(random(1, FRAMES, 4, SIZE, SIZE), 0, 4)
    assert all(not p.requires_grad and p.grad is None for p in vae.parameters())


def test_memory_grows_with_the_chunk_and_not_with_the_frames(vae):
    """Bytes alive at once."""

    def peak(frames, chunk, checkpointing=True):
        hook = optimizer(vae, [BOXES[0]] * frames, decode_chunk_size=chunk, checkpointing=checkpointing)
        latents = random(frames, 4, SIZE, SIZE)
        return peak_allocated(lambda: hook.gradient(latents))

    short, long = peak(1, 1), peak(6, 1)
    assert long < 1.01 * short
    assert peak(6, 6) > 4 * short  # one backward pass over everything
    assert peak(1, 1, checkpointing=False) > 1.5 * short
