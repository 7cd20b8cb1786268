"""The Fréchet distance against pytorch-fid, torch-fidelity, clean-fid and SciPy's matrix root."""

import json

import mpmath
import numpy as np
import pytest
from scipy.linalg import sqrtm

from ganctl.metrics.fid import frechet_distance
from ganctl.metrics.statistics import Moments
from tests.conftest import golden
from tests.golden.inception_weights import arrays

Moment = tuple[np.ndarray, np.ndarray]


def moments(seed: int, n: int, d: int) -> Moment:
    """Mean and covariance of n correlated draws: of full rank when n > d."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    return x.mean(0), np.cov(x, rowvar=False)


def by_sqrtm(a: Moment, b: Moment) -> float:
    """The published formula as the first tools compute it."""
    root = sqrtm(a[1] @ b[1])
    return float(np.square(a[0] - b[0]).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(root).real)


def test_recorded_pairs_of_every_kind() -> None:
    recorded, _ = arrays(golden("frechet_distance_pairs.safetensors"))
    names = sorted({k.split(".")[1] for k in recorded if k.startswith("in.")})
    assert len(names) == 10
    for name in names:
        a, b = ((recorded[f"in.{name}.mu{i}"], recorded[f"in.{name}.sigma{i}"]) for i in (1, 2))
        singular = name in ("rank_deficient_n_less_than_d", "singular_orthogonal_supports")
        for tool in ("pytorchfid", "torchfidelity", "cleanfid"):
            if (wanted := recorded.get(f"out.{name}.{tool}")) is not None:
                found = frechet_distance(*a, *b)
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-3 if singular else 1e-7, err_msg=name)
                np.testing.assert_allclose(found, frechet_distance(*b, *a), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("seed", "d"), [(0, 1), (1, 2), (2, 24), (3, 84)])
def test_equals_the_route_over_sqrtm(seed: int, d: int) -> None:
    a, b = moments(seed, 4 * d + 4, d), moments(seed + 100, 3 * d + 5, d)
    a, b = ((mu, np.atleast_2d(sigma)) for mu, sigma in (a, b))
    found = frechet_distance(*a, *b)
    assert found > 0
    assert found == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    assert found == pytest.approx(frechet_distance(*b, *a), rel=1e-12)
    assert abs(frechet_distance(*a, *a)) < 1e-9 * np.trace(a[1])


def test_sixty_digits_agree() -> None:
    """Ill-conditioned covariances, whose smallest eigenvalues lie eight decades below the largest."""
    rng = np.random.default_rng(7)
    turned = [np.linalg.qr(rng.standard_normal((8, 8)))[0] * np.logspace(0, -4, 8) for _ in range(2)]
    a, b = ((np.zeros(8), x @ x.T) for x in turned)
    with mpmath.workdps(60):
        exact = [mpmath.matrix(sigma.tolist()) for _, sigma in (a, b)]
        lower = mpmath.cholesky(exact[0])
        root = sum(mpmath.sqrt(v) for v in mpmath.eigsy(lower.T * exact[1] * lower, eigvals_only=True))
        wanted = float(sum(e[i, i] for e in exact for i in range(8)) - 2 * root)
    assert frechet_distance(*a, *b) == pytest.approx(wanted, rel=1e-9)


def test_one_side_of_full_rank() -> None:
    """Against the same distance after the full side is cut to the other's range, where both are of full rank."""
    full, flat = moments(3, 60, 12), moments(4, 5, 12)
    values, vectors = np.linalg.eigh(flat[1])
    span = vectors[:, -4:]
    inside = span.T @ full[1] @ span
    root = np.trace(sqrtm(inside @ np.diag(values[-4:]))).real
    wanted = np.square(full[0] - flat[0]).sum() + np.trace(full[1]) + np.trace(flat[1]) - 2 * root
    assert frechet_distance(*full, *flat) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(*flat, *full) == pytest.approx(wanted, rel=1e-9)


def test_fewer_images_than_dimensions() -> None:
    """Rank-deficient sides: real, finite, symmetric, and right where the answer is known."""
    a, b = moments(1, 5, 40), moments(2, 9, 40)
    found = frechet_distance(*a, *b)
    assert found > 0
    assert found == pytest.approx(frechet_distance(*b, *a), rel=1e-12)
    # Equal means and covariances that commute: sum of (sqrt(x) - sqrt(y))², zeros included.
    x, y, mu = np.array([4.0, 9.0, 0.0, 0.0]), np.array([1.0, 0.0, 16.0, 0.0]), np.zeros(4)
    assert frechet_distance(mu, np.diag(x), mu, np.diag(y)) == pytest.approx(1 + 9 + 16, rel=1e-12)
    assert frechet_distance(mu, np.zeros((4, 4)), mu + 3, np.zeros((4, 4))) == 36
    # Rounding leaves eigenvalues a little below zero; they are no imaginary part.
    assert abs(frechet_distance(*a, *a)) < 1e-6 * np.trace(a[1])


def of_images(x: np.ndarray) -> Moment:
    """As the command takes them: float32 features, in running moments."""
    running = Moments(x.shape[1])
    running.add(x.astype(np.float32))
    made = running.stats()
    return made.mu, made.sigma


def test_every_degenerate_pair_of_sides_has_a_real_distance() -> None:
    """Two images, one image many times, the same twice, a constant feature, spans that share nothing; both ways."""
    rng, d = np.random.default_rng(5), 64
    few, more = rng.standard_normal((2, d)), rng.standard_normal((300, d))
    apart = np.concatenate([rng.standard_normal((40, d // 2)), np.zeros((40, d // 2))], 1)
    flat = more.copy()
    flat[:, 7] = 3.0
    sides = {
        "two images": few,
        "300 images": more,
        "one image 50 times": np.repeat(few[:1], 50, 0),
        "all black": np.zeros((20, d)),
        "the same, scaled down until it underflows": more * 1e-30,
        "scaled up": more * 1e6,
        "a constant feature": flat,
        "the first half": apart,
        "the second half": apart[:, ::-1],
        "rank one": rng.standard_normal((100, 1)) * rng.standard_normal((1, d)),
    }
    measured = {name: of_images(x) for name, x in sides.items()}
    for one, a in measured.items():
        for other, b in measured.items():
            found = frechet_distance(*a, *b)
            scale = max(np.trace(a[1]) + np.trace(b[1]), np.square(a[0] - b[0]).sum(), 1e-30)
            assert isinstance(found, float) and np.isfinite(found), (one, other)
            assert found > -1e-6 * scale, (one, other, found)
            assert found == pytest.approx(frechet_distance(*b, *a), abs=1e-9 * scale), (one, other)
            if one == other:
                assert abs(found) < 1e-6 * scale, (one, found)
    # Point masses: the squared distance between them. Supports without a common direction: both variances count whole.
    black, one_image = measured["all black"], measured["one image 50 times"]
    assert frechet_distance(*black, *one_image) == pytest.approx(np.square(np.float32(few[0])).sum(), rel=1e-6)
    (mu1, sigma1), (mu2, sigma2) = measured["the first half"], measured["the second half"]
    wanted = np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(wanted, rel=1e-12)


def test_fid_of_64_images_in_2048_dimensions() -> None:
    """Features recorded by torch-fidelity, moments of ours, in batches: its value to the digits it is known by."""
    recorded, meta = arrays(golden("inception_image_set_metrics.safetensors"))
    assert json.loads(meta["config"])["h"] == 56
    sides = []
    for side in ("a", "b"):
        running = Moments(2048)
        for batch in np.split(recorded[f"out.features_{side}.2048"], [10, 40]):
            running.add(batch)
        sides.append(running.stats())
    found = frechet_distance(sides[0].mu, sides[0].sigma, sides[1].mu, sides[1].sigma)
    assert found == pytest.approx(float(recorded["out.torchfidelity.frechet_inception_distance"]), rel=1e-4)


def test_what_allows_no_distance_is_refused() -> None:
    mu, sigma = np.zeros(3), np.eye(3)
    for bad_mu, bad_sigma, why in (
        (np.array([0, np.nan, 0]), sigma, "NaN or infinity"),
        (mu, np.diag([1, np.inf, 1]), "NaN or infinity"),
        (mu, -sigma, "not a covariance"),
        (mu, np.diag([1.0, 1.0, -0.5]), "not a covariance"),
        (mu, np.ones((3, 3)) - sigma, "not a covariance"),
        (np.zeros(4), sigma, "shapes do not fit"),
        (mu[:, None], sigma, "shapes do not fit"),
        (mu + 1e200, sigma, "too large"),
        (mu, sigma * 1e308, "too large"),
    ):
        with pytest.raises(ValueError, match=why):
            frechet_distance(bad_mu, bad_sigma, mu, sigma)
        with pytest.raises(ValueError, match=why):
            frechet_distance(mu, sigma, bad_mu, bad_sigma)
