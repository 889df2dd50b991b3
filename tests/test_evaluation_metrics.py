"""The metrics' formulas against closed forms and independent libraries, each with a control that must fail."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from animation.errors import InputError
from animation.evaluation import metrics


@pytest.fixture
def images():
    """A smooth picture and a noisy copy, whose errors are large enough to overflow."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :40]
    image = np.stack([128 + 100 * np.sin(x / 5), 128 + 100 * np.cos(y / 7), 3 * x + y], axis=-1)
    noisy = image + rng.normal(0, 30, image.shape)
    return tuple(np.clip(values, 0, 255).astype(np.uint8) for values in (image, noisy))


def flat(value):
    return np.full((12, 12, 3), value, np.uint8)


def test_l1_closed_form(images):
    assert metrics.l1(flat(10), flat(61)) == metrics.l1(flat(61), flat(10)) == pytest.approx(0.2)
    expected = np.mean(np.abs(images[0] / 255 - images[1] / 255))
    assert metrics.l1(*images) == pytest.approx(expected, rel=1e-9)
    overflown = np.mean(images[0] - images[1]) / 255  # control: what uint8 would give
    assert abs(overflown - expected) > 0.1


def test_psnr_against_a_closed_form_and_scikit_image(images):
    from skimage.metrics import peak_signal_noise_ratio

    assert metrics.psnr(flat(100), flat(110)) == pytest.approx(20 * math.log10(255 / 10))
    assert metrics.psnr(flat(0), flat(255)) == 0
    assert metrics.psnr(images[0], images[0]) == math.inf
    assert metrics.psnr(*images) == pytest.approx(peak_signal_noise_ratio(*images[::-1], data_range=255), abs=1e-9)
    assert abs(metrics.psnr(*images) - metrics.psnr_disco(*images)) > 0.5  # control: not the same thing


def test_discos_psnr_for_every_pair_of_values():
    """Every difference of two bytes: its square counts modulo 256."""
    values, truths = (grid.astype(np.uint8) for grid in np.meshgrid(range(256), range(256)))
    expected = np.mod(np.square(values.astype(int) - truths), 256)
    for row in range(0, 256, 5):
        mean = expected[row].mean()
        assert metrics.psnr_disco(values[row], truths[row]) == pytest.approx(10 * math.log10(255**2 / mean))
    assert metrics.psnr_disco(flat(0), flat(16)) == math.inf  # 16² = 256 = 0
    assert metrics.psnr_disco(flat(0), flat(17)) == pytest.approx(10 * math.log10(255**2 / 33))  # 289 − 256
    assert metrics.psnr_disco(flat(50), flat(40)) == pytest.approx(
        metrics.psnr(flat(50), flat(40))
    )  # below 16 the same
    assert metrics.psnr(flat(0), flat(16)) < 30


def test_ssim_against_torchmetrics(images):
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [torch.from_numpy(image).permute(2, 0, 1)[None].double() for image in images]
    _, similarity = structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
    expected = similarity[..., 5:-5, 5:-5].mean().item()  # where the window is whole, as its authors have it
    assert metrics.ssim(*images) == pytest.approx(expected, abs=1e-9)
    assert metrics.ssim(images[0], images[0]) == pytest.approx(1)
    assert expected < 0.9  # control
    wrong = structural_similarity_index_measure(*pair, data_range=1.0).item()
    assert abs(metrics.ssim(*images) - wrong) > 1e-2
    with pytest.raises(InputError, match="at least 11×11"):
        metrics.ssim(flat(0)[:10], flat(0)[:10])


def test_cosine():
    vector, across = np.array([3.0, 4, 0]), np.array([-4.0, 3, 0])
    assert metrics.cosine(vector, 7 * vector) == pytest.approx(1)
    assert metrics.cosine(vector, -vector) == pytest.approx(-1)
    assert metrics.cosine(vector, across) == pytest.approx(0)
    assert metrics.cosine(vector, vector + across) == pytest.approx(math.sqrt(0.5))


def test_pck_counts_by_hand():
    """Ten visible points in a box of 40×100: thresholds 0.05 and 0.1 are 5 and 10 pixels."""
    target = np.stack([np.linspace(0, 40, 10), np.linspace(0, 100, 10)], axis=1)
    visible = np.ones(10)
    offsets = np.array([0, 4.9, 5.1, 9.9, 10.1, 0, 0, 0, 0, 50])
    found = target + np.stack([0.6 * offsets, -0.8 * offsets], axis=1)

    assert metrics.pck(found, visible, target, visible, (0.05, 0.1)) == [0.6 + 0.0, 0.8]
    unseen = visible.copy()
    unseen[0] = 0.3  # seen means above
    assert metrics.pck(found, unseen, target, visible, (0.05, 0.1)) == [0.5, 0.7]
    hidden = visible.copy()
    hidden[4] = 0  # what the target does not show does not count
    assert metrics.pck(found, visible, target, hidden, (0.05, 0.1)) == pytest.approx([6 / 9, 8 / 9])
    assert metrics.pck(found, visible, target, np.zeros(10), (0.1,)) is None
    assert metrics.pck(target, visible, target, visible, (0.0,)) == [1]
    assert metrics.pck(target + 200, visible, target, visible, (0.05, 0.1)) == [0, 0]  # control
    # Scaling picture and points together changes nothing.
    assert metrics.pck(3 * found, visible, 3 * target, visible, (0.05, 0.1)) == [0.6, 0.8]


def test_frechet_distance_against_closed_forms():
    rng = np.random.default_rng(1)
    features, others = rng.normal(size=(300, 5)), rng.normal(1, 2, size=(200, 5)) @ rng.normal(size=(5, 5))

    def by_scipy(a, b):
        first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        shift = a.mean(0) - b.mean(0)
        return shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real)

    assert metrics.frechet_distance(features, others) == pytest.approx(by_scipy(features, others), rel=1e-6)
    assert metrics.frechet_distance(others, features) == pytest.approx(by_scipy(features, others), rel=1e-6)
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(features, features + np.array([3, 4, 0, 0, 0])) == pytest.approx(25)
    # One dimension: (μ₁ − μ₂)² + (σ₁ − σ₂)².
    a, b = features[:, :1], 3 * features[:, :1] + 2
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected)
    # Fewer samples than dimensions: the covariances are singular, scaling by 3 leaves 4·tr Σ.
    few = rng.normal(size=(4, 50))
    spread = np.trace(np.cov(few, rowvar=False))
    assert metrics.frechet_distance(few - few.mean(0), 3 * (few - few.mean(0))) == pytest.approx(4 * spread)
    assert abs(metrics.frechet_distance(features, others + 1) - by_scipy(features, others)) > 0.1  # control


def test_frechet_distance_against_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    rng = np.random.default_rng(2)
    sets = [rng.normal(size=(100, 6)) @ rng.normal(size=(6, 6)) for _ in range(2)]
    moments = [t for s in sets for t in (torch.from_numpy(s.mean(0)), torch.from_numpy(np.cov(s, rowvar=False)))]
    assert metrics.frechet_distance(*sets) == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)
