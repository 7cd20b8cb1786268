import itertools
import tracemalloc

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.workflows.translate_tiles import check_tiles, starts, tiled


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def blurred(pixels: np.ndarray, radius: int = 3) -> np.ndarray:
    """The mean over a window, with zeros outside: a network whose view ends `radius` pixels away."""
    side = 2 * radius + 1
    padded = np.pad(pixels.astype(np.int64), ((radius, radius), (radius, radius), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    return (views.sum((-2, -1)) // side**2).astype(np.uint8)


def test_tiles_cover_everything_and_share_what_was_asked():
    for size, (tile, overlap, stride) in itertools.product(
        [1, 5, 16, 17, 31, 32, 33, 100, 257], [(16, 0, 1), (16, 8, 1), (16, 8, 4), (32, 4, 4), (12, 4, 4), (8, 4, 2)]
    ):
        found = starts(size, tile, overlap, stride)
        padded = size + -size % stride
        assert found[0] == 0 and found[-1] + tile >= padded and all(s % stride == 0 for s in found)
        assert all(a < b <= a + tile - overlap for a, b in itertools.pairwise(found))
        # None is wasted: with one fewer they could not have reached the end.
        assert len(found) == 1 or (len(found) - 1) * (tile - overlap) + overlap < padded
        assert len(found) == 1 or found[-1] + tile == padded


def test_a_network_of_single_pixels_sees_no_tiles():
    seen: list[tuple[int, ...]] = []

    def twice(part: np.ndarray) -> np.ndarray:
        seen.append(part.shape[:2])
        return (255 - part).repeat(2, 0).repeat(2, 1)

    for size, tile, overlap, stride in (
        ((50, 33), 16, 4, 1),
        ((50, 33), 16, 8, 4),
        ((9, 70), 24, 0, 2),
        ((5, 5), 8, 4, 4),
    ):
        pixels = noise(*size, 3)
        seen.clear()
        assert (tiled(pixels, twice, tile, overlap, stride) == twice(pixels)).all()
        assert max(map(max, seen[:-1])) <= tile and (len(seen) > 2) == (max(size) > tile)
    # A tile is never smaller than the stride.
    seen.clear()
    assert (tiled(noise(40, 20, 1), twice, 3, 1, 16) == twice(noise(40, 20, 1))).all()
    assert seen[:-1] == [(16, 16), (16, 4), (16, 16), (16, 4), (8, 16), (8, 4)]


def test_a_local_network_gives_the_whole_picture_where_tiles_do_not_end():
    pixels = noise(60, 75, 2)
    whole = blurred(pixels).astype(int)
    for overlap in (6, 7, 12):
        assert (tiled(pixels, blurred, 25, overlap, halo=3) == whole).all()
    # Without its halo, or room for it, the network's zeros show a little beside the seams, and nowhere else.
    for overlap, halo in ((4, 3), (8, None)):
        # As tiles fit that overlap by no more than asked.
        pixels = noise(*(25 + n * (25 - overlap) for n in (2, 3)), 2)
        whole = blurred(pixels).astype(int)
        got = tiled(pixels, blurred, 25, overlap, halo=halo)
        moved = np.abs(got - whole).max(2)
        assert 0 < moved.max() < 128
        rows, columns = (np.arange(size)[:, None] for size in moved.shape)
        seams_y, seams_x = (
            np.array([[s, s0 + 25] for s0, s in itertools.pairwise(starts(n, 25, overlap, 1))]).ravel()
            for n in moved.shape
        )
        near_y = (np.abs(rows - seams_y) <= overlap + 3).any(1)
        near_x = (np.abs(columns - seams_x) <= overlap + 3).any(1)
        assert not moved[~near_y][:, ~near_x].any() and (~near_y).any() and (~near_x).any()


def test_what_differs_goes_over_step_by_step():
    shades = itertools.cycle((0, 200))
    made = tiled(noise(20, 100, 1), lambda part: np.full_like(part, next(shades)), 40, 20)
    assert made.shape == (20, 100, 1) and (made == made[:1]).all()
    steps = np.diff(made[0, :, 0].astype(int))
    assert made[0, 0] == 0 and made.max() == 200 and np.abs(steps).max() <= 21


def test_only_bytes_are_held_of_the_whole():
    pixels = np.zeros((640, 640, 3), np.uint8)
    tracemalloc.start()
    made = tiled(pixels, lambda part: part.repeat(4, 0).repeat(4, 1), 64, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    strip = made.nbytes // 10
    assert made.shape == (2560, 2560, 3) and peak < made.nbytes + 6 * strip


def test_an_overlap_of_more_than_half_is_refused():
    check_tiles(0, 500)
    check_tiles(64, 32)
    with pytest.raises(UsageError, match="half a tile at most") as e:
        check_tiles(63, 32)
    assert e.value.what == "cannot use --tile 63 with --tile-overlap 32" and "--tile 64" in e.value.hint
