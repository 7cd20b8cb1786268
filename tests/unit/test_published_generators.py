"""OpenMMLab's, StudioGAN's and GAN Zoo's generators of noise: networks built as their modules are, read and compared by
what they draw.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ganctl.config import parse
from ganctl.io.bundle import read_bundle
from ganctl.io.tensors import load_into
from ganctl.load import family, model_names, network, read_published, skeleton
from ganctl.models import dcgan
from ganctl.nn.spectral import SNConv2d, SNLinear
from ganctl.published.container import networks_in
from ganctl.workflows.convert import ConvertRequest, run

Make = Callable[[nn.Module], nn.Module]
IDENTITY = nn.Identity()


def normal(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return spectral_norm(layer)


class Module(nn.Sequential):
    """ConvModule of mmcv: `conv`, `bn` and an activation, in an order of its own."""

    def __init__(self, conv: nn.Module, *, bn: int = 0, act: nn.Module | None = None, first: str = "conv") -> None:
        super().__init__()
        parts = {"conv": conv, "bn": nn.BatchNorm2d(bn) if bn else nn.Identity(), "act": act or nn.Identity()}
        for name in ("conv", "bn", "act") if first == "conv" else ("bn", "act", "conv"):
            if not isinstance(parts[name], nn.Identity):
                self.add_module(name, parts[name])


def up(inputs: int, outputs: int, kernel: int, stride: int, padding: int, *, extra: int = 0, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding=extra, bias=bias)


class DCGAN(nn.Module):
    def __init__(self, z: int = 5, width: int = 8) -> None:
        super().__init__()
        self.noise2feat = Module(up(z, width, 4, 1, 0, bias=False), bn=width, act=nn.ReLU())
        rows = [up(width >> i, width >> (i + 1), 4, 2, 1, bias=False) for i in range(2)]
        rows = [Module(r, bn=width >> (i + 1), act=nn.ReLU()) for i, r in enumerate(rows)]
        self.upsampling = nn.Sequential(*rows)
        self.output_layer = Module(up(width >> 2, 3, 4, 2, 1, bias=True), act=nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.output_layer(self.upsampling(self.noise2feat(z[:, :, None, None])))


class LSGAN(nn.Module):
    def __init__(self, z: int = 5, width: int = 8) -> None:
        super().__init__()
        self.noise2feat_head = nn.Sequential(nn.Linear(z, width * 9))
        self.noise2feat_tail = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())

        def row(inputs: int, outputs: int, stride: int) -> Module:
            conv = up(inputs, outputs, 3, stride, 1, extra=stride - 1, bias=False)
            return Module(conv, bn=outputs, act=nn.ReLU())

        rows = [row(width, width, 2), row(width, width, 1), row(width, 4, 2), row(4, 2, 2)]
        self.conv_blocks = nn.ModuleList([*rows, Module(up(2, 3, 3, 1, 1, bias=True), act=nn.Tanh())])

    def forward(self, z: Tensor) -> Tensor:
        y = self.noise2feat_tail(self.noise2feat_head(z).unflatten(1, (-1, 3, 3)))
        for row in self.conv_blocks:
            y = row(y)
        return y


class Noise(nn.Module):
    def __init__(self, z: int, width: int) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(z, width * 16, bias=False), nn.Parameter(torch.zeros(1, width, 1, 1))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(F.relu(self.linear(z).unflatten(1, (-1, 4, 4)) + self.bias))


class WGANGP(nn.Module):
    def __init__(self, z: int = 5, width: int = 6) -> None:
        super().__init__()

        def row(inputs: int, outputs: int) -> Module:
            return Module(nn.Conv2d(inputs, outputs, 3, padding=1), bn=outputs, act=nn.ReLU())

        self.noise2feat = Noise(z, width)
        rows: list[nn.Module] = [row(width, width)]
        for a, b in ((width, width), (width, 4)):
            rows += [nn.Upsample(scale_factor=2), row(a, b), row(b, b)]
        self.conv_blocks, self.to_rgb = nn.ModuleList(rows), Module(nn.Conv2d(4, 3, 1), act=nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        y = self.noise2feat(z)
        for row in self.conv_blocks:
            y = row(y)
        return self.to_rgb(y)


class ClassNorm(nn.Module):
    """SNConditionNorm with the scale 1 + weight."""

    def __init__(self, width: int, classes: int, sn: Make) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps=1e-4, affine=not classes)
        if classes:
            self.weight_embedding, self.bias_embedding = (sn(nn.Embedding(classes, width)) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.norm(x)
        if not hasattr(self, "weight_embedding"):
            return x
        return x * (1 + self.weight_embedding(c))[:, :, None, None] + self.bias_embedding(c)[:, :, None, None]


class Attention(nn.Module):
    """SelfAttentionBlock, and StudioGAN's SelfAttention under names of its own."""

    def __init__(self, width: int, conv: Callable[..., nn.Module], *, studio: bool = False) -> None:
        super().__init__()
        self.names = (
            ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn") if studio else ("theta", "phi", "g", "o")
        )
        sizes = ((width, width // 8), (width, width // 8), (width, width // 2), (width // 2, width))
        for name, (a, b) in zip(self.names, sizes, strict=True):
            self.add_module(name, conv(a, b, 1, bias=False))
        self.gain = "sigma" if studio else "gamma"
        self.register_parameter(self.gain, nn.Parameter(torch.zeros(1) if studio else torch.tensor(0.0)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta, phi, g, o = (getattr(self, n) for n in self.names)
        q, k, v = theta(x).flatten(2), F.max_pool2d(phi(x), 2).flatten(2), F.max_pool2d(g(x), 2).flatten(2)
        found = v @ (q.transpose(1, 2) @ k).softmax(2).transpose(1, 2)
        return getattr(self, self.gain) * o(found.unflatten(2, x.shape[2:])) + x


class Residual(nn.Module):
    """SNGANGenResBlock."""

    def __init__(self, a: int, b: int, classes: int, sn: Make, tables: Make) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = ClassNorm(a, classes, tables), ClassNorm(b, classes, tables)
        self.conv_1 = Module(sn(nn.Conv2d(a, b, 3, padding=1)))
        self.conv_2, self.shortcut = Module(sn(nn.Conv2d(b, b, 3, padding=1))), Module(sn(nn.Conv2d(a, b, 1)))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = self.conv_1(F.interpolate(self.norm_1(x, c).relu(), scale_factor=2.0))
        return self.conv_2(self.norm_2(y, c).relu()) + self.shortcut(F.interpolate(x, scale_factor=2.0))


class SNGAN(nn.Module):
    """SNGANGenerator, with spectral norm and attention SAGAN's."""

    def __init__(self, classes: int = 3, *, sn: Make = IDENTITY, tables: Make = IDENTITY, attention: int = 0):
        super().__init__()
        self.z_dim, width = 5, 16
        self.noise2feat = sn(nn.Linear(5, width * 16))
        rows: list[nn.Module] = [Residual(width, width, classes, sn, tables) for _ in range(2)]
        if attention:
            conv = lambda a, b, k, bias: Module(normal(nn.Conv2d(a, b, k, bias=bias)))  # noqa: E731
            rows.insert(attention, Attention(width, conv))
        self.conv_blocks = nn.ModuleList(rows)
        self.to_rgb = Module(sn(nn.Conv2d(width, 3, 3, padding=1)), bn=width, act=nn.ReLU(), first="bn")
        self.to_rgb.bn.eps = 1e-4

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        y = self.noise2feat(z).unflatten(1, (-1, 4, 4))
        for row in self.conv_blocks:
            y = row(y, c)
        return self.to_rgb(y).tanh()


class Vector(nn.Module):
    """BigGANConditionBN, and StudioGAN's with another ε."""

    def __init__(self, inputs: int, width: int, linear: Callable[..., nn.Module], eps: float) -> None:
        super().__init__()
        self.gain, self.bias = linear(inputs, width, bias=False), linear(inputs, width, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=eps, affine=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bn(x) * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class Block(nn.Module):
    """BigGANGenResBlock and BigGANDeepGenResBlock, of StudioGAN with `conv2dN` for `convN.conv`."""

    def __init__(self, sizes: tuple[int, ...], conv: Any, norm: Any, *, up: bool, deep: bool, studio: bool) -> None:
        super().__init__()
        self.up, self.outputs, self.deep = up, sizes[-1], deep
        self.kernels = (1, 3, 3, 1) if deep else (3, 3)
        self.names = [f"conv2d{i + 1}" if studio else f"conv{i + 1}" for i in range(len(self.kernels))]
        for i, (name, kernel) in enumerate(zip(self.names, self.kernels, strict=True)):
            self.add_module(name, conv(sizes[i], sizes[i + 1], kernel))
            self.add_module(f"bn{i + 1}", norm(sizes[i]))
        self.short = "conv2d0" if studio else "shortcut"
        if not deep:
            self.add_module(self.short, conv(sizes[0], sizes[-1], 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = x
        for i, name in enumerate(self.names):
            h = getattr(self, f"bn{i + 1}")(h, y).relu()
            h = F.interpolate(h, scale_factor=2.0) if self.up and i == self.deep else h
            h = getattr(self, name)(h)
        x = x[:, : self.outputs] if self.deep else x
        x = F.interpolate(x, scale_factor=2.0) if self.up else x
        return h + (x if self.deep else getattr(self, self.short)(x))


class BigGAN(nn.Module):
    """BigGANGenerator and BigGANDeepGenerator of 16 px; StudioGAN's big_resnet and big_resnet_deep_legacy."""

    def __init__(self, *, deep: bool = False, studio: bool = False, stored: bool = True, shared: bool = True) -> None:
        super().__init__()
        width, self.classes, self.deep, self.studio = 16, 4, deep, studio
        self.part, self.z_dim = (5, 5) if deep or not shared else (5, 15)
        linear, conv = layers(stored=stored)
        wrapped = conv if studio else lambda *a, **k: Module(conv(*a, **k))
        condition = 6 + self.part

        def norm(width: int) -> nn.Module:
            # Without a shared embedding the tables of classes have no spectral norm.
            own = linear if shared else lambda a, b, bias: nn.Embedding(4, b)
            return Vector(condition, width, own, 1e-4 if studio else 1e-5)

        first = linear(condition if deep else self.part, width * 16)
        embedding = nn.Embedding(4, 6) if shared else nn.Identity()
        rows: list[nn.Module] = []
        for i in range(4 if deep else 2):
            sizes = (width, width // 4, width // 4, width // 4, width) if deep else (width,) * 3
            rows.append(Block(sizes, wrapped, norm, up=not deep or i % 2 == 1, deep=deep, studio=studio))
        rows.insert(2 if deep else 1, Attention(width, wrapped, studio=studio))
        bn, last = nn.BatchNorm2d(width, eps=1e-4 if studio else 1e-5), conv(width, 3, 3)
        if studio:
            self.linear0, self.shared, self.bn4, self.conv2d5 = first, embedding, bn, last
            self.blocks = nn.ModuleList([nn.ModuleList([row]) for row in rows])
        else:
            self.noise2feat, self.shared_embedding, self.conv_blocks = first, embedding, nn.ModuleList(rows)
            self.output_layer = Module(last, bn=width, act=nn.ReLU(), first="bn")

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        first, embedding = (self.linear0, self.shared) if self.studio else (self.noise2feat, self.shared_embedding)
        y, parts = embedding(c), list(z.split(self.part, 1))
        if self.deep:
            # OpenMMLab has the order of the TensorFlow modules.
            parts = [torch.cat([y, z] if self.studio else [z, y], 1)]
        h = first(parts[0])
        if self.deep and not self.studio:
            h = h.unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        else:
            h = h.unflatten(1, (-1, 4, 4))
        conditions = [torch.cat([y, p], 1) if y.ndim > 1 else y for p in parts[1:] or parts * 2]
        for row in [r[0] for r in self.blocks] if self.studio else self.conv_blocks:
            block = isinstance(row, Block)
            h = row(h, parts[0] if self.deep else conditions.pop(0) if block else None)
        return (self.conv2d5(self.bn4(h).relu()) if self.studio else self.output_layer(h)).tanh()


def layers(*, stored: bool) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Linear layers and convolutions with PyTorch's spectral norm, or with the one of Brock et al. 2019's code."""
    if stored:
        conv = lambda a, b, k, bias=True: normal(nn.Conv2d(a, b, k, padding=k // 2, bias=bias))  # noqa: E731
        return lambda a, b, bias=True: normal(nn.Linear(a, b, bias=bias)), conv

    def with_value(layer: nn.Module) -> nn.Module:
        layer.register_buffer("sv0", torch.ones(1))
        return layer

    conv = lambda a, b, k, bias=True: with_value(SNConv2d(a, b, k, bias=bias, eps=1e-6))  # noqa: E731
    return lambda a, b, bias=True: with_value(SNLinear(a, b, bias=bias, eps=1e-6)), conv


class StudioDCGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        class Doubling(nn.Module):
            def __init__(self, a: int, b: int) -> None:
                super().__init__()
                self.deconv0, self.bn0 = up(a, b, 4, 2, 1, bias=True), nn.BatchNorm2d(b, eps=1e-4)

            def forward(self, x: Tensor) -> Tensor:
                return self.bn0(self.deconv0(x)).relu()

        self.linear0, self.conv4 = nn.Linear(5, 8 * 16), nn.Conv2d(2, 3, 3, padding=1)
        self.blocks = nn.ModuleList([nn.ModuleList([Doubling(a, b)]) for a, b in ((8, 4), (4, 2))])

    def forward(self, z: Tensor) -> Tensor:
        y = self.linear0(z).unflatten(1, (-1, 4, 4))
        for row in self.blocks:
            y = row[0](y)
        return self.conv4(y).tanh()


class StudioResidual(nn.Module):
    """StudioGAN's resnet backbone: norms by a linear map of the class's unit vector."""

    def __init__(self, *, stored: bool) -> None:
        super().__init__()
        linear, conv = (
            layers(stored=True) if stored else (nn.Linear, lambda a, b, k: nn.Conv2d(a, b, k, padding=k // 2))
        )
        norm = functools.partial(Vector, 4, linear=linear, eps=1e-4)
        self.linear0, self.bn4, self.conv2d5 = linear(5, 16 * 16), nn.BatchNorm2d(16, eps=1e-4), conv(16, 3, 3)
        rows = [Block((16, 16, 16), conv, norm, up=True, deep=False, studio=True) for _ in range(2)]
        self.blocks = nn.ModuleList([nn.ModuleList([row]) for row in rows])

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        y = self.linear0(z).unflatten(1, (-1, 4, 4))
        for row in self.blocks:
            y = row[0](y, F.one_hot(c, 4).float())
        return self.conv2d5(self.bn4(y).relu()).tanh()


class Zoo(nn.Module):
    """GAN Zoo's GNet."""

    def __init__(self) -> None:
        super().__init__()
        self.formatLayer, self.main = up(5, 8, 4, 1, 0, bias=False), nn.Sequential()
        for i, (a, b) in enumerate(((8, 8), (8, 4), (4, 2))):
            if i:
                self.main.add_module(f"convTranspose{i}", up(a, b, 4, 2, 1, bias=False))
            self.main.add_module(f"batchNorm{i}", nn.BatchNorm2d(b))
            self.main.add_module(f"relu{i}", nn.ReLU())
        self.main.add_module("outlayer", up(2, 3, 4, 2, 1, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.formatLayer(z[:, :, None, None])).tanh()


Cases = dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any]]]
"""By name: the family, the network, and what the zoo's entry says of its config."""
MMGEN: Cases = {
    "dcgan": ("dcgan", DCGAN, {}),
    "lsgan": ("lsgan", LSGAN, {}),
    "wgan-gp": ("wgan_gp", WGANGP, {}),
    "sngan": ("sngan", SNGAN, {}),
    "sngan-one-class": ("sngan", functools.partial(SNGAN, 0), {}),
    "sagan": ("sagan", functools.partial(SNGAN, sn=normal, tables=normal, attention=2), {}),
    "sagan-plain-tables": ("sagan", functools.partial(SNGAN, sn=normal, attention=1), {}),
    "biggan-own-tables": ("sagan", functools.partial(BigGAN, shared=False), {"bn_eps": 1e-5}),
    "biggan": ("biggan", BigGAN, {}),
    "biggan-ajbrock": ("biggan", functools.partial(BigGAN, stored=False), {}),
    "biggan-deep": ("biggan_deep", functools.partial(BigGAN, deep=True), {}),
}
STUDIO: Cases = {
    "dcgan": ("dcgan", StudioDCGAN, {}),
    "sngan": ("sngan", functools.partial(StudioResidual, stored=False), {}),
    "sagan": ("sagan", functools.partial(StudioResidual, stored=True), {}),
    "biggan": ("biggan", functools.partial(BigGAN, studio=True), {}),
    "biggan-deep": ("biggan_deep", functools.partial(BigGAN, deep=True, studio=True), {}),
}


def inputs(net: nn.Module) -> list[Tensor]:
    z = torch.randn(3, getattr(net, "z_dim", 5), generator=torch.Generator().manual_seed(1))
    plain = isinstance(net, DCGAN | LSGAN | WGANGP | StudioDCGAN | Zoo)
    return [z] if plain else [z, torch.tensor([0, 1, 2])]


@torch.no_grad()
def used(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with numbers of its own, statistics and singular vectors of two steps of training."""
    torch.manual_seed(2)
    net = make().train()
    for name, p in net.named_parameters():
        if name.rpartition(".")[2] in ("gamma", "sigma") or p.ndim == 1:
            p.copy_(torch.rand(p.shape) - (0.5 if name.endswith("bias") else -0.2))
    for _ in range(2):
        net(*inputs(net))
    return net.eval()


@torch.no_grad()
def compare(net: nn.Module, value: Any, key: str, wanted: str, more: dict[str, Any], *, bgr: bool = False) -> None:
    """The family alone knows the file's network, and ours draws what theirs does."""
    state = dict(networks_in(value, bgr=bgr))[key]
    found = {m: got for m in model_names() if (got := read_published(family(m), state, "test"))}
    assert [m for m, got in found.items() if "G" in got[1]] == [wanted]
    config, states = found[wanted]
    module = family(wanted)
    G = skeleton(module, parse(module.Config, {**config, **more}, where="test")).G.eval()
    load_into(G, states["G"], where="test")
    theirs = net(*inputs(net)).flip(1) if bgr else net(*inputs(net))
    ours = G.sample(*inputs(net)) if getattr(G, "c", None) else G.sample(inputs(net)[0])
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-4
    assert theirs.std() > 0.01 and theirs.abs().median() < 0.99


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("name", MMGEN)
def test_openmmlab(name: str, bgr: bool) -> None:
    wanted, make, more = MMGEN[name]
    net = used(make)
    state = {f"generator_ema.{k}": v.clone() for k, v in net.state_dict().items()}
    value = {"meta": {"iter": 5}, "state_dict": {**state, "discriminator.x.conv.weight": torch.zeros(1, 3, 4, 4)}}
    compare(net, value, "state_dict.generator_ema", wanted, more, bgr=bgr)


@pytest.mark.parametrize("name", STUDIO)
def test_studiogan(name: str) -> None:
    wanted, make, more = STUDIO[name]
    net = used(make)
    value = {"seed": 1, "run_name": "x", "state_dict": net.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    compare(net, value, "state_dict", wanted, more)


def test_gan_zoo() -> None:
    net = used(Zoo)
    compare(net, {"netG": {}, "avgG": net.state_dict()}, "avgG", "dcgan", {"resolution": 32})


@torch.no_grad()
def test_the_example_with_a_last_layer_of_one_pixel() -> None:
    """32 px, or 28 where the file's owner says that the padding is 2."""
    torch.manual_seed(0)
    sizes = ((5, 8, 4, 1, 0), (8, 4, 4, 2, 1), (4, 4, 4, 2, 1), (4, 2, 4, 2, 1))
    rows = [m for a, b, k, s, p in sizes for m in (up(a, b, k, s, p, bias=False), nn.BatchNorm2d(b), nn.ReLU())]
    for padding, side in ((0, 32), (2, 28)):
        net = nn.Sequential(*rows, up(2, 1, 1, 1, padding, bias=False), nn.Tanh()).eval()
        config, states = dcgan.from_upstream({f"main.{k}": v for k, v in net.state_dict().items()})  # type: ignore[misc]
        if padding:
            config |= {"resolution": side, "g_layers": [*config["g_layers"][:-1], (1, 1, 1, 2)]}
        G = dcgan.build(parse(dcgan.Config, config, where="test")).G.eval()
        load_into(G, states["G"], where="test")
        z = torch.randn(2, 5)
        assert G(z).shape[-1] == side and (G(z) - net(z[:, :, None, None])).abs().max() < 1e-5


def test_convert_of_a_whole_file(tmp_path) -> None:
    nets = {
        name: used(functools.partial(SNGAN, sn=normal, tables=normal, attention=2))
        for name in ("generator", "generator_ema")
    }
    nets["generator_ema"].to_rgb.conv.bias.data.add_(0.25)
    state = {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}
    path = tmp_path / "sagan_16.pth"
    torch.save({"meta": {}, "state_dict": state}, path)
    told = run(ConvertRequest(source=str(path), out=str(tmp_path / "out"), license="Apache-2.0"))
    assert told["model"] == "sagan" and set(told["nets"]) == {"G", "G_ema"}
    bundle = read_bundle(tmp_path / "out")
    with torch.no_grad():
        for name, key in (("G", "generator"), ("G_ema", "generator_ema")):
            z, c = inputs(nets[key])
            assert (network(bundle, name).sample(z, c).flip(1) - nets[key](z, c)).abs().max() <= 1e-4
