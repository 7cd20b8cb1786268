"""Metrics over arrays where nothing is recorded: answers known by hand, odd inputs, order, blocks, memory."""

import tracemalloc
from math import e, log

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ganctl.metrics import precision_recall as manifolds
from ganctl.metrics.inception_score import ScoreSplits, inception_score
from ganctl.metrics.kid import kernel_distance, squared_mmd
from ganctl.metrics.precision_recall import density_coverage, nearest, precision_recall, realism
from ganctl.metrics.two_sample import roc_auc, two_sample

COMPARISONS = [kernel_distance, precision_recall, density_coverage, realism, two_sample]


def features(n: int, d: int = 24, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.maximum(np.random.default_rng(seed).standard_normal((n, d)) + shift, 0).astype(np.float32)


@pytest.mark.parametrize("score", COMPARISONS)
def test_what_allows_no_comparison_is_refused(score) -> None:
    good, odd = features(40), features(40, seed=1)
    odd[3, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        score(good, odd)
    odd[3, 5] = np.inf
    with pytest.raises(ValueError, match="NaN or infinity"):
        score(odd, good)
    with pytest.raises(ValueError, match=r"shapes do not fit: \(40, 24\) and \(40, 23\)"):
        score(good, good[:, :23])
    with pytest.raises(ValueError, match="shapes do not fit"):
        score(good[0], good[0])
    for real, fake in ((good, good[:1]), (good[:1], good), (good[:0], good[:0])):
        with pytest.raises(ValueError, match=rf"needs at least \d images on each side; there are {len(real)} real and"):
            score(real, fake)


@pytest.mark.parametrize("score", COMPARISONS)
def test_arrays_are_only_read(score) -> None:
    real, fake = features(40), features(30, seed=1)
    for side in (real, fake):
        side.flags.writeable = False  # as a memory-mapped file is
    np.testing.assert_allclose(score(real, fake), score(real.astype(np.float64), fake), rtol=1e-5)


# Kernel distance


def test_kernel_distance_by_hand() -> None:
    """Points on a line, d = 1: k(x, y) = (x y + 1)³."""
    real, fake = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [2.0]])
    within_real = (1 + 1 + 27) / 3
    within_fake = (64 + 27 + 343) / 3
    across = (3 * 1 + (8 + 64 + 27) + (27 + 343 + 125)) / 9
    mean, std = kernel_distance(real, fake, subsets=5)
    assert mean == pytest.approx(within_real + within_fake - 2 * across, rel=1e-12)
    assert std == 0


def test_subsets_are_as_large_as_the_smaller_side() -> None:
    real, fake = features(300), features(50, seed=1)
    assert kernel_distance(real, fake) == kernel_distance(real, fake, subset_size=50)
    assert kernel_distance(real, fake, seed=1) != kernel_distance(real, fake)
    # All of both sides: one subset is as good as a hundred.
    assert kernel_distance(fake, fake[::-1])[1] == 0


def test_kernel_distance_of_equal_and_of_shifted_distributions() -> None:
    real = features(600)
    mean, std = kernel_distance(real, features(600, seed=1), subsets=20, subset_size=200)
    assert abs(mean) < 3 * std
    mean, std = kernel_distance(real, features(600, seed=1, shift=0.5), subsets=20, subset_size=200)
    assert mean > 10 * std > 0


def test_kernel_distance_of_one_picture_repeated() -> None:
    """Constant sides: the kernel is one number, and the estimate exactly the distance of the two."""
    x, y = np.full((5, 3), 2.0), np.full((4, 3), 1.0)
    assert kernel_distance(x, x) == (0, 0)
    assert kernel_distance(x, y)[0] == pytest.approx(5**3 + 2**3 - 2 * 3**3)


def test_kernel_distance_refuses_what_makes_no_subset() -> None:
    x = features(10)
    for options in ({"subsets": 0}, {"subset_size": 1}):
        with pytest.raises(ValueError, match="needs subsets of 2 images or more"):
            kernel_distance(x, x, **options)
    with pytest.raises(ValueError, match="too large for a number"):
        kernel_distance(np.full((4, 2), 1e60), np.full((4, 2), 1e60))


def test_kernel_distance_takes_memory_for_one_subset() -> None:
    """2 x 24 MB of features, subsets of 0.4 MB a side in float64."""
    real, fake = (np.ones((24_000, 256), np.float32) for _ in range(2))
    tracemalloc.start()
    try:
        kernel_distance(real, fake, subsets=3, subset_size=200)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_squared_mmd_is_unbiased() -> None:
    """Means over pairs of different points: the diagonals do not count."""
    k = np.array([[100.0, 1.0], [3.0, 100.0]])
    assert squared_mmd(k, k, np.ones((2, 2))) == 2 + 2 - 2


# Inception Score


def test_inception_score_by_hand() -> None:
    sure = np.where(np.eye(4) > 0, 1000.0, 0.0)
    assert inception_score(np.repeat(sure, 5, 0), splits=1) == (pytest.approx(4), 0)
    assert inception_score(np.zeros((20, 4))) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    # Two images, p = (1/4, 3/4) and (3/4, 1/4): exp of log 2 less the entropy of each.
    entropy = -(log(1 / 4) / 4 + 3 * log(3 / 4) / 4)
    found, _ = inception_score(np.log([[1.0, 3.0], [3.0, 1.0]]), splits=1)
    assert found == pytest.approx(e ** (log(2) - entropy), rel=1e-12)


def test_logits_in_any_order_and_in_parts() -> None:
    logits = np.random.default_rng(0).standard_normal((103, 7)).astype(np.float32) * 3
    whole = inception_score(logits)
    assert whole[1] > 0
    parts = np.split(np.random.default_rng(1).permutation(103), [40, 41, 90])
    running, ranks = ScoreSplits(103, classes=7), [ScoreSplits(103, classes=7) for _ in range(2)]
    for i, positions in enumerate(parts):
        running.add(logits[positions], positions)
        ranks[i % 2].add(logits[positions], positions)
    np.testing.assert_allclose(running.score(), whole, rtol=1e-12)
    ranks[0].sums += ranks[1].sums
    np.testing.assert_allclose(ranks[0].score(), whole, rtol=1e-12)
    assert running.sums.shape == (10, 9)


def test_skipped_images_are_missing_from_their_split() -> None:
    logits = np.random.default_rng(1).standard_normal((20, 5))
    running = ScoreSplits(20, classes=5, splits=2, seed=None)
    running.add(logits[:8], np.arange(8))
    running.add(logits[10:], np.arange(10, 20))
    a, _ = inception_score(logits[:8], splits=1)
    b, _ = inception_score(logits[10:], splits=1)
    assert running.score() == (pytest.approx((a + b) / 2), pytest.approx(abs(a - b) / 2))


def test_inception_score_refuses_what_makes_no_splits() -> None:
    with pytest.raises(ValueError, match="at least one image in each of 10 splits; there are 9"):
        inception_score(np.zeros((9, 4)))
    with pytest.raises(ValueError, match="1 split or more, not 0"):
        inception_score(np.zeros((9, 4)), splits=0)
    running = ScoreSplits(20, classes=4, splits=2, seed=None)
    running.add(np.zeros((10, 4)), np.arange(10))
    with pytest.raises(ValueError, match="1 of 2 splits have no readable image"):
        running.score()
    for logits in (np.zeros((11, 4)), np.zeros((1, 5)), np.zeros(4)):
        with pytest.raises(ValueError, match="do not fit 1 images"):
            running.add(logits, np.array([10]))
    with pytest.raises(ValueError, match="logits hold NaN or infinity"):
        running.add(np.full((1, 4), np.nan), np.array([10]))


# Precision, recall, density, coverage, realism, neighbours


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, ...]:
    """All four from whole matrices of distances."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    balls_real, balls_fake = (np.sort(cdist(side, side), axis=1)[:, k] for side in (real, fake))
    across = cdist(real, fake)
    precision = (across <= balls_real[:, None]).any(0).mean()
    recall = (across <= balls_fake).any(1).mean()
    held = across < balls_real[:, None]
    return precision, recall, held.sum() / (k * len(fake)), held.any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 64, 1024])
def test_manifolds_by_definition_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block: int, k: int) -> None:
    monkeypatch.setattr(manifolds, "BLOCK", block)
    real, fake = features(130, 6), features(90, 6, seed=1, shift=0.3)
    found = (*precision_recall(real, fake, k=k), *density_coverage(real, fake, k=k))
    assert found == pytest.approx(by_definition(real, fake, k), rel=1e-14)
    assert 0 < min(found[:2]) < max(found[:2]) < 1


def test_manifolds_by_hand() -> None:
    """Points on a line, k = 1. Real balls: 0 ± 1, 1 ± 1, 5 ± 4. Generated balls: 2 ± 1, 3 ± 1, 9.5 ± 6.5."""
    real, fake = np.array([[0.0], [1.0], [5.0]]), np.array([[2.0], [3.0], [9.5]])
    assert precision_recall(real, fake, k=1) == (2 / 3, 2 / 3)  # 2 is on the border of 1 ± 1, and inside 5 ± 4
    assert density_coverage(real, fake, k=1) == (2 / 3, 1 / 3)  # the border is outside
    # The widest ball is left out: 1 ± 1 is the nearest of the others to every generated point.
    np.testing.assert_allclose(realism(real, fake, k=1), [1 / 1, 1 / 2, 1 / 8.5])


@pytest.mark.parametrize("block", [16, 1024])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_the_same_images_on_both_sides(monkeypatch: pytest.MonkeyPatch, block: int, scale: float) -> None:
    """In any order, and far from the origin: a point is at distance 0 from itself, and ties are ties."""
    monkeypatch.setattr(manifolds, "BLOCK", block)
    real = features(150, 32) * np.float32(scale) + np.float32(10 * scale)
    fake = np.random.default_rng(0).permutation(real)
    assert precision_recall(real, fake) == (1, 1)
    # Each ball holds its middle and all nearer neighbours, not the one on its border: k points.
    assert density_coverage(real, fake) == (1, 1)
    assert np.isinf(realism(real, fake)).sum() == 75


def test_constant_images() -> None:
    """Balls of radius 0: the same picture is on the border, another one outside."""
    white, black = np.full((9, 5), 0.7, np.float32), np.full((8, 5), 0.1, np.float32)
    assert precision_recall(white, white[:6]) == (1, 1)
    assert precision_recall(white, black) == (0, 0)
    assert density_coverage(white, white) == (0, 0)
    assert np.isinf(realism(white, white)).all()
    assert not realism(white, black).any()


def test_duplicates_within_a_side() -> None:
    real = np.repeat(features(30), 4, 0)
    assert precision_recall(real, real[::4], k=3) == (1, 1)
    moved = real[::4] + np.float32(1e-3)
    assert precision_recall(real, moved, k=3)[0] == 0


def test_as_many_images_as_neighbours_are_refused() -> None:
    x = features(5)
    with pytest.raises(ValueError, match="with 5 neighbours needs at least 6 images on each side; there are 5"):
        density_coverage(x, x)
    assert precision_recall(x, x, k=4) == (1, 1)
    for score in (precision_recall, density_coverage, realism):
        with pytest.raises(ValueError, match="1 neighbour or more, not 0"):
            score(x, x, k=0)


def test_realism_says_what_is_inside() -> None:
    """Over the balls that are kept; and deeper inside is more."""
    real, fake = features(120, 6), features(80, 6, seed=1, shift=0.2)
    found = realism(real, fake)
    radii = np.sort(cdist(real, real), axis=1)[:, 3]
    kept = radii <= np.sort(radii)[59]
    np.testing.assert_allclose(found, (radii[kept, None] / cdist(real[kept], fake)).max(0), rtol=1e-5)
    assert 0 < (found >= 1).sum() < 80


@pytest.mark.parametrize("block", [5, 1024])
def test_nearest_neighbours(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(manifolds, "BLOCK", block)
    points, queries = features(70), features(12, seed=1)
    index, distance = nearest(queries, points, 4)
    wanted = cdist(queries, points)
    np.testing.assert_array_equal(index, np.argsort(wanted, 1)[:, :4])
    np.testing.assert_allclose(distance, np.sort(wanted, 1)[:, :4], rtol=1e-6)
    copies = np.repeat(points[:3], 20, 0)
    index, distance = nearest(points[1:2], copies, 3)
    assert index.tolist() == [[20, 21, 22]] and not distance.any()
    with pytest.raises(ValueError, match="there are 70 points to find 71 nearest among"):
        nearest(queries, points, 71)


# The two-sample test


def test_sides_that_cannot_be_told_apart_give_chance() -> None:
    for n, d in ((400, 16), (60, 300)):  # more images than dimensions, and fewer
        found = [two_sample(features(n, d, seed=2 * i), features(n, d, seed=2 * i + 1)) for i in range(4)]
        loss, area = np.mean(found, 0)
        assert loss == pytest.approx(log(2), abs=0.02)
        assert area == pytest.approx(0.5, abs=0.06)


def test_sides_apart_are_told_apart_the_better_the_further() -> None:
    real = features(300, 40)
    losses, areas = zip(*(two_sample(real, features(300, 40, seed=1, shift=s)) for s in (0.1, 0.3, 1)), strict=True)
    assert log(2) > losses[0] > losses[1] > losses[2] > 0
    assert 0.52 < areas[0] < areas[1] < areas[2] <= 1
    assert losses[2] < 0.1 and areas[2] > 0.99


def test_fewer_images_than_dimensions_are_told_apart() -> None:
    """What the ridge shrinks, calibration undoes."""
    loss, area = two_sample(features(60, 600), features(60, 600, seed=1, shift=0.3))
    assert loss < 0.2 and area > 0.98


def test_perfectly_separable_sides_have_a_finite_loss() -> None:
    real = features(100)
    loss, area = two_sample(real, real + 100)
    assert 0 < loss < 0.05 and area == 1
    loss, area = two_sample(np.ones((50, 3)), np.zeros((50, 3)))
    assert 0 < loss < 0.1 and area == 1


def test_the_same_or_constant_images_on_both_sides_give_chance() -> None:
    """A classifier that has seen an image's twin on the other side is wrong about it; it may not gain from that."""
    real = features(200)
    for fake in (real, real[::-1]):
        assert two_sample(real, fake) == (pytest.approx(log(2), abs=0.01), pytest.approx(0.5, abs=0.05))
    constant = np.full((10, 3), 0.1, np.float32)
    assert two_sample(constant, constant) == (pytest.approx(log(2)), 0.5)
    # A constant feature beside others says nothing.
    other = features(200, seed=1, shift=0.2)
    wide = [np.hstack([side, np.full((200, 2), 1000.1, np.float32)]) for side in (real, other)]
    assert two_sample(*wide)[1] == pytest.approx(two_sample(real, other)[1], abs=0.02)


def test_unequal_sides_weigh_the_same() -> None:
    real = features(900, 8)
    assert two_sample(real, features(90, 8, seed=1))[0] == pytest.approx(log(2), abs=0.03)
    many, few = features(900, 8, seed=1, shift=0.4), features(150, 8, seed=1, shift=0.4)
    assert two_sample(real, few)[0] == pytest.approx(two_sample(real, many)[0], abs=0.04)


def test_two_sample_depends_on_its_seed_alone() -> None:
    real, fake = features(80), features(70, seed=1, shift=0.2)
    np.random.seed(1)
    once = two_sample(real, fake)
    np.random.seed(2)
    assert two_sample(real, fake) == once != two_sample(real, fake, seed=1)
    # Units do not matter.
    scale = np.float32(2) ** np.arange(-12, 12)
    np.testing.assert_allclose(two_sample(real * scale, fake * scale), once, rtol=1e-3)


def test_too_few_for_the_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="in 5 folds needs at least 5 images on each side; there are 9 real and 4"):
        two_sample(features(9), features(4))
    with pytest.raises(ValueError, match="needs 3 folds or more, not 2"):
        two_sample(features(9), features(9), folds=2)
    loss, area = two_sample(features(5), features(5, seed=1))
    assert np.isfinite(loss) and 0 <= area <= 1


def test_area_under_the_curve_by_hand() -> None:
    """Pairs in which the positive is higher, and half of those that are equal."""
    positive = np.array([True, True, True, False, False])
    scores = np.array([0.9, 0.4, 0.4, 0.4, 0.1])
    assert roc_auc(scores, positive) == (1 + 1 + 0.5 + 1 + 0.5 + 1) / 6
    assert roc_auc(-scores, positive) == pytest.approx(1 / 6)
    assert roc_auc(np.zeros(5), positive) == 0.5
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
    difference = scores[positive][:, None] - scores[~positive]
    assert roc_auc(scores, positive) == pytest.approx(((difference > 0) + (difference == 0) / 2).mean(), rel=1e-14)
