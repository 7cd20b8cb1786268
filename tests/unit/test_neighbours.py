"""How near real images are to each other, by hand."""

import numpy as np
import pytest

from ganctl.metrics.neighbours import LEAST, MOST, closer, drawn, spacing


def line(*places: float) -> np.ndarray:
    return np.array(places, np.float32)[:, None]


def test_spacing_leaves_an_image_itself_out() -> None:
    points = line(0, 1, 3, 7)
    np.testing.assert_allclose(spacing(points, np.arange(4), np.arange(4)), [1, 1, 2, 4])
    np.testing.assert_allclose(spacing(points, np.arange(4), np.array([3, 0])), [4, 1])


def test_a_copy_is_another_image_and_a_mirror_image_is_not() -> None:
    copies = line(5, 5, 5, 9)
    np.testing.assert_allclose(spacing(copies, np.arange(4), np.arange(4)), [0, 0, 0, 4])
    views = line(0, 0.5, 2, 10)
    np.testing.assert_allclose(spacing(views, np.array([0, 0, 1, 1]), np.arange(4)), [2, 1.5, 1.5, 9.5])
    with pytest.raises(ValueError, match="one real image"):
        spacing(line(1, 2), np.zeros(2, np.int64), np.arange(2))


def test_spacing_of_many_is_that_of_all_pairs() -> None:
    points = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    images = np.sort(np.random.default_rng(1).permutation(np.repeat(np.arange(150), 2)))
    pairs = np.linalg.norm(points[:, None].astype(float) - points, axis=2)
    pairs[images[:, None] == images] = np.inf
    np.testing.assert_allclose(spacing(points, images, np.arange(300)), pairs.min(1), rtol=1e-6)


def test_closer_than_nearly_all() -> None:
    usual = np.arange(1.0, 101.0)
    assert closer(np.array([0.0, 0.99, 1.0, 1.5, 2.0, 50.0]), usual).tolist() == [True] * 4 + [False] * 2
    # Where a hundredth of the real images have a copy, a copy is nothing special any more.
    assert not closer(np.zeros(1), np.array([0.0, 0.0, *usual[2:]])).any()
    assert closer(np.zeros(1), np.ones(5)).all() and not closer(np.zeros(1), np.zeros(5)).any()


def test_a_draw_is_bounded() -> None:
    rng = np.random.default_rng(0)
    assert drawn(900, 900, 2048, rng).tolist() == list(range(900))
    large, larger = drawn(50_000, 60_000, 84, rng), drawn(50_000, 1_000_000, 2048, rng)
    assert len(large) == MOST and len(larger) == LEAST
    assert (np.diff(large) > 0).all() and large.max() < 50_000
    again = drawn(50_000, 60_000, 84, np.random.default_rng(1))
    assert again.tolist() == drawn(50_000, 60_000, 84, np.random.default_rng(1)).tolist() != large.tolist()
