import pytest
import torch

from ganctl.nn.interpolation import lerp, positions, slerp, walk


def keys(n: int = 5, *shape: int) -> torch.Tensor:
    return torch.randn(n, *(shape or (16,)), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", ["lerp", "slerp", "cubic"])
@pytest.mark.parametrize("easing", ["linear", "ease-in-out"])
@pytest.mark.parametrize("loop", [True, False])
def test_every_keyframe_is_met_bit_for_bit(method, easing, loop):
    k = keys(4, 3, 2)
    u = positions(4, 7, easing=easing, loop=loop)
    path = walk(k, method, loop=loop)(u)
    assert path.shape == ((28 if loop else 22), 3, 2) and path.dtype == k.dtype
    assert torch.equal(path[::7], k)
    assert torch.isfinite(path).all()


@pytest.mark.parametrize("method", ["lerp", "slerp", "cubic"])
def test_a_path_does_not_depend_on_how_it_is_cut_into_batches(method):
    at, u = walk(keys(), method), positions(5, 6)
    torch.testing.assert_close(at(u), torch.cat([at(part) for part in u.split(4)]), rtol=0, atol=1e-6)


def test_slerp_keeps_the_norm_and_moves_at_even_speed():
    a, b = torch.nn.functional.normalize(keys(2, 64).double(), dim=1)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = slerp(a.expand(11, -1), b.expand(11, -1), t)
    torch.testing.assert_close(path.norm(dim=1), torch.ones(11, dtype=torch.float64))
    steps = (path[1:] * path[:-1]).sum(1).acos()
    torch.testing.assert_close(steps, steps[:1].expand(10))
    assert torch.equal(path[0], a) and torch.equal(path[-1], b)


def test_slerp_of_right_angles_is_the_quarter_circle():
    half = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    torch.testing.assert_close(half, torch.full((1, 2), 0.5**0.5))


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0], [2.0, 4.0]), ([1.0, 0.0], [-1.0, 0.0]), ([0.0, 0.0], [1.0, 1.0])])
def test_slerp_without_a_single_arc_is_the_line(a, b):
    a, b, t = torch.tensor([a]), torch.tensor([b]), torch.tensor([0.25])
    torch.testing.assert_close(slerp(a, b, t), lerp(a, b, t))


@pytest.mark.parametrize("loop", [True, False])
def test_cubic_has_continuous_velocity_and_acceleration(loop):
    h = 1e-3
    at = walk(keys(5, 8).double(), "cubic", loop=loop)
    for knot in (1.0, 2.0, 3.0):
        before, here, after = at(torch.tensor([knot - h, knot, knot + h], dtype=torch.float64))
        outer = at(torch.tensor([knot - 2 * h, knot + 2 * h], dtype=torch.float64))
        torch.testing.assert_close((here - before) / h, (after - here) / h, rtol=0, atol=0.1)
        left = (here - 2 * before + outer[0]) / h**2
        right = (here - 2 * after + outer[1]) / h**2
        torch.testing.assert_close(left, right, rtol=0, atol=0.2)


def test_a_cubic_loop_closes_smoothly():
    h = 1e-4
    at = walk(keys(4, 8).double(), "cubic")
    start, later, end = at(torch.tensor([0.0, h, 4 - h], dtype=torch.float64))
    torch.testing.assert_close((later - start) / h, (start - end) / h, rtol=0, atol=0.05)


def test_two_keys_and_collinear_keys_work_everywhere():
    for method in ("lerp", "slerp", "cubic"):
        for loop in (True, False):
            path = walk(keys(2), method, loop=loop)(positions(2, 5, loop=loop))
            assert torch.isfinite(path).all() and torch.equal(path[5 if loop else -1], keys(2)[1])


def test_ease_in_out_slows_down_at_keyframes():
    u = positions(2, 10, easing="ease-in-out", loop=False)
    speed = u.diff()
    assert speed[0] < speed[4] and speed[-1] < speed[5] and u[5] == 0.5
