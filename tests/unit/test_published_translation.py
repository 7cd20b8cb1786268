"""OpenMMLab's CycleGAN and pix2pix: networks built as its modules are, read and compared by what they draw."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.errors import WeightsError
from ganctl.io.tensors import load_into
from ganctl.models import cyclegan, pix2pix
from ganctl.published.container import networks_in
from ganctl.workflows.convert import ConvertRequest, run


class Module(nn.Module):
    """ConvModule of mmcv: `conv` and a norm under a name of its own, activation before or after them."""

    def __init__(self, conv: nn.Module, norm: str, width: int, act: nn.Module | None, *, before: bool = False) -> None:
        super().__init__()
        self.conv, self.act, self.before = conv, act, before
        if norm:
            self.add_module(norm, nn.BatchNorm2d(width) if norm == "bn" else nn.InstanceNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x) if self.act and self.before else x
        x = self.conv(x)
        for name, layer in self.named_children():
            x = layer(x) if name in ("in", "bn") else x
        return self.act(x) if self.act and not self.before else x


class Block(nn.Module):
    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        convs = (nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=norm == "in") for _ in range(2))
        acts = (nn.ReLU(), None)
        self.block = nn.Sequential(*(Module(c, norm, width, a) for c, a in zip(convs, acts, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class ResNet(nn.Module):
    def __init__(self, norm: str, k: int = 2, blocks: int = 3) -> None:
        super().__init__()

        def wide(inputs: int, outputs: int, **options: bool) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 7, padding=3, padding_mode="reflect", **options)

        bias = norm == "in"
        layers: list[nn.Module] = [Module(wide(3, k, bias=bias), norm, k, nn.ReLU())]
        layers += [Module(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=bias), norm, 2 * w, nn.ReLU()) for w in (k, 2 * k)]
        layers += [Block(4 * k, norm) for _ in range(blocks)]
        for w in (4 * k, 2 * k):
            conv = nn.ConvTranspose2d(w, w // 2, 3, 2, 1, output_padding=1, bias=bias)
            layers.append(Module(conv, norm, w // 2, nn.ReLU()))
        self.model = nn.Sequential(*layers, Module(wide(k, 3), "", 3, nn.Tanh()))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Level(nn.Module):
    def __init__(self, outer: int, inner: int, below: nn.Module | None, *, inputs: int = 0) -> None:
        super().__init__()
        self.outermost = bool(inputs)
        down = nn.Conv2d(inputs or outer, inner, 4, 2, 1, bias=False)
        up = nn.ConvTranspose2d(2 * inner if below else inner, outer, 4, 2, 1, bias=self.outermost)
        middle = [below] if below else []
        first = Module(
            down, "bn" if below and not inputs else "", inner, None if inputs else nn.LeakyReLU(0.2), before=True
        )
        last = Module(up, "" if inputs else "bn", outer, nn.ReLU(), before=True)
        self.model = nn.Sequential(first, *middle, last, *([nn.Tanh()] if inputs else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        below = Level(16, 16, None)
        for outer, inner in ((8, 16), (4, 8), (2, 4)):
            below = Level(outer, inner, below)
        self.model = Level(3, 2, below, inputs=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def filled(net: nn.Module) -> nn.Module:
    """Every number its own, statistics too."""
    g = torch.Generator().manual_seed(sum(p.numel() for p in net.parameters()))
    for t in net.state_dict().values():
        if t.is_floating_point():
            t.copy_(torch.rand(t.shape, generator=g) * 0.5 + (0.1 if t.ndim == 1 else -0.25))
    return net.eval()


def checkpoint(**nets: nn.Module) -> dict[str, object]:
    state = {f"generators.{domain}.{k}": t for domain, net in nets.items() for k, t in net.state_dict().items()}
    return {"meta": {}, "state_dict": {**state, "discriminators.x.model.0.conv.weight": torch.zeros(1, 3, 4, 4)}}


def ours(module, state: Mapping[str, Tensor], **changes: object) -> nn.Module:
    config, states = module.from_upstream(state)
    G = module.build(parse(module.Config, {**config, **changes}, where="test")).G
    load_into(G, states["G"], where="test")
    return G.eval()


@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize("bgr", [True, False])
@torch.no_grad()
def test_cyclegan_has_both_ways(norm: str, bgr: bool) -> None:
    horse, zebra = filled(ResNet(norm)), filled(ResNet(norm))
    zebra.model[0].conv.weight.neg_()
    held = dict(networks_in(checkpoint(horse=horse, zebra=zebra), bgr=bgr))
    G = ours(cyclegan, held["state_dict.generators.zebra"], resolution=32)
    x = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for way, net in ((G.AtoB, zebra), (G.BtoA, horse)):
        wanted = net(x.flip(1)).flip(1) if bgr else net(x)
        assert torch.allclose(way(x), wanted, atol=1e-5) and wanted.std() > 0.01
    assert torch.equal(ours(cyclegan, held["state_dict.generators.horse"], resolution=32).AtoB(x), G.BtoA(x))


@pytest.mark.parametrize("bgr", [True, False])
@torch.no_grad()
def test_pix2pix(bgr: bool) -> None:
    net = filled(UNet())
    held = dict(networks_in(checkpoint(photo=net), bgr=bgr))
    G = ours(pix2pix, held["state_dict.generators"], resolution=32, test_time="stored")
    assert G.stride == 32
    x = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    wanted = net(x.flip(1)).flip(1) if bgr else net(x)
    assert torch.allclose(G(x), wanted, atol=1e-5) and wanted.std() > 0.01


def test_what_is_neither_is_left_alone() -> None:
    parts = checkpoint(a=nn.Sequential(nn.Linear(2, 2)), b=filled(UNet()))
    names = [key for key, _ in networks_in(parts)]
    assert names == ["state_dict", "state_dict.generators"]
    strange = {"generators.a.model.70.block.0.conv.weight": torch.zeros(2)}
    assert [key for key, _ in networks_in(strange)] == [""]


def test_convert_asks_for_the_direction(tmp_path) -> None:
    path = tmp_path / "cyclegan_horse2zebra.pth"
    torch.save(checkpoint(horse=filled(ResNet("in")), zebra=filled(ResNet("in"))), path)
    with pytest.raises(WeightsError, match="several of G") as e:
        run(ConvertRequest(source=str(path), out=str(tmp_path / "x")))
    assert "--net " in e.value.hint
    told = run(ConvertRequest(source=str(path), out=str(tmp_path / "y"), net="zebra", license="Apache-2.0"))
    assert told["model"] == "cyclegan"
