"""Plain 3 × 3 convolutions by Winograd, instance norm of maps whose channels are last: the same, but for rounding."""

import pytest
import torch
import torch.nn.functional as F

from ganctl.models import cyclegan
from ganctl.nn import norm, winograd
from ganctl.nn.winograd import Conv3x3, convolution


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, reflect: bool) -> torch.Tensor:
    """In double precision, as its definition has it."""
    padded = F.pad(x.double(), (1, 1, 1, 1), mode="reflect" if reflect else "constant")
    return F.conv2d(padded, weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("reflect", [False, True], ids=["zeros", "reflect"])
@pytest.mark.parametrize(
    ("size", "tiles", "threads"),
    [((32, 32), 256, 1), ((33, 34), 9, 1), ((35, 47), 24, 2), ((41, 32), 1, 3), ((2, 2), 4, 1), ((5, 3), 1, 1)],
)
@torch.inference_mode()
def test_every_size_strip_and_thread(
    size: tuple[int, int], tiles: int, threads: int, reflect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES", tiles)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    g = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(7, 5, 3, 3, generator=g), torch.randn(7, generator=g)
    x = torch.randn(2, 5, *size, generator=g)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        for b in (bias, None):
            got = convolution(given, weight, b, reflect=reflect)
            want = plain(x, weight, b, reflect)
            assert got.shape == want.shape
            assert float((got - want).abs().max()) < 2e-5 * float(want.abs().max())
    assert (convolution(x, weight, reflect=reflect)[1] == convolution(x[1:], weight, reflect=reflect)[0]).all()


def test_where_the_module_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, reflect: bool) -> torch.Tensor:
        taken.append(reflect)
        return convolution(x, weight, bias, reflect=reflect)

    monkeypatch.setattr(winograd, "convolution", spy)
    wide, narrow = Conv3x3(128, 128, reflect=True), Conv3x3(128, 64)
    x = torch.randn(1, 128, 32, 36)
    with torch.no_grad():
        fast = wide(x)
        narrow(x), wide(x[:, :, :31]), wide(x[..., :20])
    assert taken == [True]
    slow = wide(x)
    slow.sum().backward()
    assert taken == [True] and wide.weight.grad is not None
    assert fast.is_contiguous(memory_format=torch.channels_last)
    assert float((fast - slow).detach().abs().max()) < 1e-5
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wide(x)
    assert taken == [True]


def test_instance_norm_does_not_depend_on_the_order_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "CACHED", 1000)
    layer = norm.InstanceNorm(6)
    # Channels far from zero, as after a convolution with a large bias, and one without any contrast.
    x = torch.randn(3, 6, 17, 40) * torch.tensor([1, 5, 0.1, 1, 1, 0])[:, None, None]
    x = x + torch.tensor([0.0, 3, 1, -20, 100, 7])[:, None, None]
    wide = x.double()
    want = (wide - wide.mean((2, 3), keepdim=True)) / (wide.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    last = x.contiguous(memory_format=torch.channels_last)
    assert norm.is_channels_last(last) and not norm.is_channels_last(x)
    assert torch.equal(layer(last), torch.nn.InstanceNorm2d(6)(last))
    with torch.no_grad():
        made = layer(last)
        assert norm.is_channels_last(made) and torch.equal(layer(x), torch.nn.InstanceNorm2d(6)(x))
    error = (made - want).abs().amax((0, 2, 3))
    assert float(error[:4].max()) < 5e-6 and float(error.max()) < 1e-4


def test_cyclegans_pictures_are_those_of_its_training() -> None:
    """The fast way of a picture against the plain one, which gradients take; 128 channels in the blocks."""
    torch.manual_seed(0)
    net = cyclegan.ResNet(3, 3, cyclegan.Config(ngf=32, res_blocks=3)).eval()
    x = torch.rand(1, 3, 132, 144) * 2 - 1
    with torch.inference_mode():
        fast = net.translate(x)
    slow = net.translate(x).detach()
    assert 0 < float((fast - slow).abs().max()) < 1e-4 and float(slow.std()) > 0.1
