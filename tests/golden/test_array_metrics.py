"""KID, Inception Score, precision and recall, density and coverage against torch-fidelity, clean-fid and prdc.

The arrays are regenerated from their recorded seeds; their first values are checked before anything else.
"""

import json
from collections.abc import Callable

import numpy as np
import pytest

from ganctl.metrics.inception_score import inception_score
from ganctl.metrics.kid import kernel_distance, squared_mmd
from ganctl.metrics.precision_recall import density_coverage, precision_recall
from tests.conftest import golden
from tests.golden.inception_weights import arrays

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
RECORDED, META = arrays(golden("feature_array_metrics.safetensors"))
CONFIG = json.loads(META["config"])


def drawn(seed: int, n: int, d: int, shift: float, scale: float) -> np.ndarray:
    mixing = np.random.RandomState(4242).standard_normal((d, d)) / np.sqrt(d)
    return np.abs(np.random.RandomState(seed).standard_normal((n, d)) @ mixing * scale + shift).astype(np.float32)


@pytest.fixture(scope="module", params=["narrow", "wide"])
def sides(request: pytest.FixtureRequest) -> tuple[str, np.ndarray, np.ndarray]:
    """The case's name, real and generated features: 64 wide with many rows, or 2048 wide with few."""
    names = {"narrow": ("real", "fake"), "wide": ("wide_real", "wide_fake")}[request.param]
    real, fake = (drawn(*CONFIG["arrays"][name]) for name in names)
    for name, side in zip(names, (real, fake), strict=True):
        np.testing.assert_allclose(side[:2, :4], RECORDED[f"in.probe.{name}"], rtol=1e-6)
    return request.param, real, fake


def recorded(*names: str) -> list[float]:
    return [float(RECORDED[f"out.{name}"]) for name in names]


def test_kid_of_torch_fidelity(sides: tuple[str, np.ndarray, np.ndarray]) -> None:
    name, real, fake = sides
    found = kernel_distance(real, fake, subsets=25, subset_size=100)
    tool = f"{name}.torchfidelity.kid_poly"
    np.testing.assert_allclose(found, recorded(f"{tool}_float64.mean", f"{tool}_float64.std"), rtol=1e-6)
    other = kernel_distance(real, fake, subsets=10, subset_size=200, seed=7)
    rows = {f"{tool}_float32": found, f"{name}.torchfidelity.kid_subsets10_size200_seed7": other}
    for row, (mean, std) in rows.items():
        # Its default adds up in float32: of a distance near 0 the mean is known to 1e-4, its spread to less.
        assert mean == pytest.approx(*recorded(f"{row}.mean"), rel=1e-4), row
        assert std == pytest.approx(*recorded(f"{row}.std"), rel=5e-4), row


def degree2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (0.01 * x @ y.T + 0.5) ** 2


def rbf10(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-squared / (2 * 10**2))


def kid_with(kernel: Kernel, real: np.ndarray, fake: np.ndarray, subsets: int, size: int) -> tuple[float, float]:
    """The estimator alone, over torch-fidelity's draws."""
    rng, found = np.random.RandomState(2020), []
    for _ in range(subsets):
        x = fake[rng.choice(len(fake), size, replace=False)].astype(np.float64)
        y = real[rng.choice(len(real), size, replace=False)].astype(np.float64)
        found.append(squared_mmd(kernel(x, x), kernel(y, y), kernel(x, y)))
    return float(np.mean(found)), float(np.std(found))


def test_kid_with_other_kernels(sides: tuple[str, np.ndarray, np.ndarray]) -> None:
    name, real, fake = sides
    kernels: dict[str, Kernel] = {"poly_deg2_gamma0.01_coef0.5": degree2, "rbf10": rbf10}
    for kernel_name, kernel in kernels.items():
        found = kid_with(kernel, real, fake, 25, 100)
        for precision, rtol in (("float64", 1e-6), ("float32", 2e-4)):
            row = f"{name}.torchfidelity.kid_{kernel_name}_{precision}"
            np.testing.assert_allclose(found, recorded(f"{row}.mean", f"{row}.std"), rtol=rtol, err_msg=row)


def test_kid_of_clean_fid(sides: tuple[str, np.ndarray, np.ndarray]) -> None:
    """Its draws are those of NumPy's global generator, and it draws from its second argument, the fakes, first."""
    name, real, fake = sides
    for subsets, size in ((100, 1000), (20, 150)):
        row = f"{name}.cleanfid.kid_npseed0_subsets{subsets}_max{size}"
        found, _ = kernel_distance(real, fake, subsets=subsets, subset_size=size, seed=0)
        assert found == pytest.approx(*recorded(row), rel=1e-4), row


def test_precision_and_recall(sides: tuple[str, np.ndarray, np.ndarray]) -> None:
    name, real, fake = sides
    for k in (3, 5):
        precision, recall = precision_recall(real, fake, k=k)
        assert [precision, recall] == recorded(f"{name}.prdc_k{k}.precision", f"{name}.prdc_k{k}.recall")
        for row in (f"{name}.torchfidelity.prc_k{k}", f"{name}.torchfidelity.prc_k{k}_batched97"):
            # Ratios of the same counts, there divided in float32.
            wanted = np.float32(recorded(f"{row}.precision", f"{row}.recall"))
            np.testing.assert_array_equal(np.float32([precision, recall]), wanted)
            f_score = 2 * precision * recall / (precision + recall)
            assert f_score == pytest.approx(*recorded(f"{row}.f_score"), rel=1e-6)


def test_density_and_coverage(sides: tuple[str, np.ndarray, np.ndarray]) -> None:
    name, real, fake = sides
    for k in (3, 5):
        wanted = recorded(f"{name}.prdc_k{k}.density", f"{name}.prdc_k{k}.coverage")
        np.testing.assert_allclose(density_coverage(real, fake, k=k), wanted, rtol=1e-14)


def test_inception_score() -> None:
    logits = drawn(CONFIG["isc_seed"], 333, 50, 0.0, 2.0) * np.float32(3)
    np.testing.assert_allclose(logits[:2, :4], RECORDED["in.probe.isc_logits"], rtol=1e-6)
    for splits, seed, row in (
        (10, 2020, "isc_splits10_shuffle"),
        (7, 2020, "isc_splits7_shuffle"),
        (10, None, "isc_splits10_noshuffle"),
        (1, None, "isc_splits1_noshuffle"),
    ):
        found = inception_score(logits, splits=splits, seed=seed)
        np.testing.assert_allclose(found, recorded(f"{row}.mean", f"{row}.std"), rtol=1e-9, err_msg=row)


def test_scores_of_64_images() -> None:
    """Features that torch-fidelity took from two sets of pictures; its own scores of them."""
    stored, _ = arrays(golden("inception_image_set_metrics.safetensors"))
    fake, real = (stored[f"out.features_{side}.2048"] for side in "ab")
    logits = stored["out.features_a.logits_unbiased"]

    def wanted(tool: str, *scores: str) -> list[float]:
        return [float(stored[f"out.{tool}.{score}"]) for score in scores]

    score = ("inception_score_mean", "inception_score_std")
    np.testing.assert_allclose(inception_score(logits), wanted("torchfidelity", *score), rtol=1e-7)
    unshuffled = wanted("torchfidelity_noshuffle_rbf", *score)
    np.testing.assert_allclose(inception_score(logits, seed=None), unshuffled, rtol=1e-4)
    kid = wanted("torchfidelity", "kernel_inception_distance_mean", "kernel_inception_distance_std")
    np.testing.assert_allclose(kernel_distance(real, fake, subsets=20, subset_size=32), kid, rtol=1e-4)
    precision, recall = precision_recall(real, fake)
    assert [precision, recall] == wanted("torchfidelity", "precision", "recall")
    f_score = 2 * precision * recall / (precision + recall)
    assert f_score == pytest.approx(*wanted("torchfidelity", "f_score"), rel=1e-6)
    kid = wanted("torchfidelity_noshuffle_rbf", "kernel_inception_distance_mean", "kernel_inception_distance_std")
    np.testing.assert_allclose(kid_with(rbf10, real, fake, 20, 32), kid, rtol=1e-4)
