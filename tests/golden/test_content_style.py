"""MUNIT and FUNIT against numbers recorded from their authors' programs, and their losses by hand."""

import pytest
import torch
from torch import Tensor, nn

from ganctl.errors import UsageError
from ganctl.load import average_name
from ganctl.losses.adversarial import hinge_d, least_squares_d, least_squares_g, wasserstein_g
from ganctl.models import funit, munit
from ganctl.phase import Batch, Progress
from ganctl.protocols import Styled
from ganctl.published.container import networks_in
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream


@pytest.fixture(scope="module", params=["the authors' file", "one for both domains"])
def both_ways(request) -> tuple[munit.Generator, dict, dict]:
    """The recorded auto-encoder in both domains' places: B decodes what A encodes. GAN Compression's files have one."""
    weights, inputs, outputs, _ = read(golden("munit_adain_generator.safetensors"))
    twice = {f"{side}.{k}": v for side in "ab" for k, v in weights.items()}
    state = twice if "authors" in request.param else weights
    return upstream(munit, state, "G"), inputs, outputs  # type: ignore[return-value]


@torch.no_grad()
def test_munit_generator(both_ways) -> None:
    G, inputs, outputs = both_ways
    x, style = inputs["image"], inputs["style"].flatten(1)
    content, own = G.A.encode(x)
    close(content, outputs["content"], 2e-5)
    close(own, outputs["style"].flatten(1), 2e-5)
    close(G.A.decode(content, own), outputs["reconstruction"], 2e-5)
    close(G.translate(x, style=style), outputs["decode_with_given_style"], 2e-5)
    close(G.translate(x[:1], style=own[:1]), outputs["reconstruction"][:1], 2e-5)


def test_munit_discriminator_and_its_losses() -> None:
    weights, inputs, outputs, config = read(golden("munit_multiscale_discriminator.safetensors"))
    cfg = munit.Config(resolution=64, ndf=config["params"]["dim"], n_layers=3, ngf=1)
    D = munit.build(cfg).D.A
    names = {k: k.replace("cnns.", "scales.") for k in weights}
    D.load_state_dict({names[k]: v for k, v in weights.items()})
    maps = D(inputs["real"])
    for i, found in enumerate(maps):
        close(found, outputs[f"real.scale{i}"], 1e-5)
    fake = D(inputs["fake"])
    pairs = zip(maps, fake, strict=True)
    close(torch.stack([2 * least_squares_d(r, f, 0.0, 1.0) for r, f in pairs]).sum(), outputs["dis_loss"], 1e-5)
    close(torch.stack([2 * least_squares_g(f, 1.0) for f in fake]).sum(), outputs["gen_loss"], 1e-5)


@torch.no_grad()
def test_funit_generator() -> None:
    weights, inputs, outputs, config = read(golden("funit_fewshot_generator.safetensors"))
    G = upstream(funit, weights, "G")
    hp = config["hp"]
    assert (G.stride, G.smallest[1], len(G.mlp)) == (2 ** hp["n_downs_content"], 2 ** hp["n_downs_class"], 5)
    x, classes = inputs["content_image"], inputs["class_images"]
    codes = G.encode_style(classes)
    close(codes, outputs["class_codes"].flatten(1), 2e-5)
    close(G.content(x), outputs["content"], 2e-5)
    mean = codes.mean(0, keepdim=True)
    close(mean, outputs["class_code_mean"].flatten(1), 2e-5)
    close(G.translate(x, style=mean), outputs["translation"], 2e-5)
    close(G.translate(x, style=codes[:1]), outputs["one_shot_first_class_image"], 2e-5)
    close(G(x, classes[:1]), outputs["one_shot_first_class_image"], 2e-5)


def test_funit_discriminator_its_losses_and_the_penalty() -> None:
    weights, inputs, outputs, config = read(golden("funit_discriminator.safetensors"))
    D = upstream(funit, weights, "D", resolution=48)
    assert (D.last.out_channels, len(D.blocks)) == (config["hp"]["num_classes"], config["hp"]["n_res_blks"])
    x, c = inputs["image"], inputs["label"].long()
    response, features = D(x, c)
    close(response, outputs["response"], 1e-5)
    close(features, outputs["features"].mean((2, 3)), 1e-5)
    close(hinge_d(response, torch.full_like(response, -1.0)), outputs["dis_real_loss"], 1e-5)
    close(hinge_d(torch.ones_like(response), response), outputs["dis_fake_loss"], 1e-5)
    close(wasserstein_g(response), outputs["gen_loss"], 1e-5)
    # The reference takes the gradient of the mean over the batch of 3 too.
    cfg = funit.Config(resolution=48, ngf=1, gamma=2.0, classes=7)
    nets = funit.Nets(funit.build(cfg).G, D)  # type: ignore[arg-type]
    terms = funit.d_loss(nets, Batch(x, x.flip(0), c, c.flip(0)), draws(), cfg)
    close(terms["D_r1"] / len(x) ** 2, outputs["grad2_real"], 1e-5)


def draws() -> Progress:
    return Progress(0, 0, torch.Generator().manual_seed(0), torch.device("cpu"))


class Level(nn.Module):
    """A discriminator of as many scales as asked that answers with the mean of its image."""

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.mean((1, 2, 3))] * self.scales


class Sum(nn.Module):
    """A domain whose image is content + style: the style of an image is a tenth of its mean, the content the rest."""

    style_dim = 1

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = off

    def encode_style(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] / 10 + self.off

    def content(self, x: Tensor) -> Tensor:
        return 0.9 * x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.content(x), self.encode_style(x)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style[..., None, None]


def test_munit_losses_by_hand() -> None:
    cfg = munit.Config(resolution=16, ngf=1, ndf=1, res_blocks=1, n_layers=1, scales=1, mlp_dim=1, image_weight=5.0)
    nets = munit.build(cfg)
    nets.G.A, nets.G.B = Sum(0.0), Sum(0.5)  # type: ignore[assignment]
    nets.D.A, nets.D.B = Level(1), Level(2)  # type: ignore[assignment]
    b = Batch(torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.4))
    s1, s2 = (float(s) for s in torch.randn(2, generator=torch.Generator().manual_seed(0)))
    drawn = draws()
    first = munit.d_loss(nets, b, drawn)
    # c₁ = 0.09, c₂ = 0.36; G₂(c₁, s₂) = 0.09 + s₂, G₁(c₂, s₁) = 0.36 + s₁.
    ab, ba = 0.09 + s2, 0.36 + s1
    assert float(first["D_loss_B"]) == pytest.approx(2 * (ab**2 + 0.6**2), rel=1e-5)
    assert float(first["D_loss_A"]) == pytest.approx(ba**2 + 0.9**2, rel=1e-5)
    terms = munit.g_loss(nets, b, draws(), cfg)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(
        {
            "G_loss_B": 2 * (ab - 1) ** 2,
            "G_loss_A": (ba - 1) ** 2,
            # Of x₁ nothing is lost; the style of x₂ is read 0.5 too high.
            "G_image": 5 * 0.5,
            "G_content": abs(0.9 * ab - 0.09) + abs(0.9 * ba - 0.36),
            "G_style": abs(0.1 * ab + 0.5 - s2) + abs(0.1 * ba - s1),
        },
        rel=1e-4,
    )
    assert nets.phi is None and munit.given(cfg) == {}
    # What was drawn is used up: the next step's styles are others.
    assert float(munit.d_loss(nets, b, drawn)["D_loss_B"]) != float(first["D_loss_B"])
    rate = munit.optimizers(cfg)["G"].lr
    assert callable(rate)
    assert [rate(n, 10**6) / cfg.glr for n in (0, 99_999, 100_000, 250_000)] == [1, 1, 0.5, 0.25]


def test_munit_perceptual_loss_sees_no_means_and_deviations() -> None:
    cfg = munit.Config(resolution=32, ngf=1, ndf=1, n_layers=1, mlp_dim=2, perceptual_weight=0.5)
    nets = munit.build(cfg)
    assert nets.phi is not None and munit.given(cfg) == {"phi": "vgg19-imagenet"}
    nets.G.A, nets.G.B = Sum(0.0), Sum(0.5)  # type: ignore[assignment]
    # Features that are the pixels: what G adds to an image and what it is multiplied by are seen by none of them.
    nets.phi.of = lambda x: [x]  # type: ignore[method-assign]
    g = torch.Generator().manual_seed(1)
    x, y = (torch.rand(2, 3, 32, 32, generator=g) for _ in range(2))
    terms = munit.g_loss(nets, Batch(x, y), draws(), cfg)
    assert float(terms["G_perceptual"]) == pytest.approx(0, abs=1e-5)
    nets.G.B.content = nets.G.A.content = lambda x: x.square()  # type: ignore[method-assign]

    def apart(x: Tensor) -> Tensor:
        a, b = ((v - v.mean((2, 3), keepdim=True)) / v.std((2, 3), keepdim=True) for v in (x.square(), x))
        return (a - b).square().mean()

    terms = munit.g_loss(nets, Batch(x, y), draws(), cfg)
    assert float(terms["G_perceptual"]) == pytest.approx(float(0.5 * (apart(x) + apart(y))), rel=1e-2)
    with pytest.raises(UsageError, match="leaves one pixel"):
        munit.build(munit.Config(resolution=16, n_layers=1, perceptual_weight=1.0))


@torch.no_grad()
def test_munit_styles_and_the_way_back() -> None:
    cfg = munit.Config(resolution=16, source_channels=1, ngf=2, ndf=1, res_blocks=1, n_layers=1, mlp_dim=4)
    G = munit.build(cfg).G.eval()
    assert isinstance(G, Styled) and isinstance(G.reverse, Styled)
    assert (G.reverse.source, G.reverse.target) == (G.target, G.source)
    assert (G.style_prior, G.own_style, G.reverse.style_prior, G.reverse.own_style) == (True, False, True, False)
    x = torch.rand(2, 1, 8, 12) * 2 - 1
    drawn = G.draw_style([3, 4])
    assert drawn.shape == (2, 8) and torch.equal(drawn[1:], G.draw_style([4]))
    assert torch.equal(G.translate(x, seed=3), G.translate(x, style=drawn[:1]))
    assert (G.translate(x, seed=3) - G.translate(x, seed=4)).abs().max() > 1e-3
    assert torch.equal(G.translate(x, style=drawn)[1:], G.translate(x, style=drawn[1:])[1:])
    # Smaller than the networks can be: content and style go on beyond the border.
    assert G.translate(torch.zeros(1, 1, 4, 4)).shape == (1, 3, 4, 4)
    assert G.encode_style(torch.zeros(1, 3, 5, 40)).shape == (1, 8)
    y = torch.rand(1, 3, 4, 8)
    assert G.reverse.translate(y, seed=1).shape == (1, 1, 4, 8)
    assert torch.equal(G.reverse.encode_style(x), G.A.encode_style(x))


class Add(nn.Module):
    """A generator whose result is content + class code: the means of its images."""

    def content(self, x: Tensor) -> Tensor:
        return x / 2

    def encode_style(self, y: Tensor) -> Tensor:
        return y.mean((1, 2, 3))[:, None] / 2

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style[..., None, None]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.decode(self.content(x), self.encode_style(y))


class Times(nn.Module):
    """A discriminator that answers for class c with a map of (c + 1) x, and whose features are the mean of x."""

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return (c + 1)[:, None, None] * x[:, 0], x.mean((2, 3))


def test_funit_losses_by_hand() -> None:
    cfg = funit.Config(resolution=16, ngf=1, ndf=1, n_layers=1, gamma=6.0, image_weight=0.5, feature_weight=3.0)
    nets = funit.build(cfg)
    nets.G, nets.D = Add(), Times()  # type: ignore[assignment]
    x, y = torch.full((2, 1, 4, 4), 0.2), torch.full((2, 1, 4, 4), -0.8)
    x[:, :, :2] = 0.4
    b = Batch(x, y, torch.tensor([0, 1]), torch.tensor([2, 0]))
    # G(x, {y}) = x / 2 - 0.4: -0.3 and -0.2; D sees x as of classes 0 and 1, and that as of 2 and 0.
    assert {k: float(v.detach()) for k, v in funit.d_loss(nets, b, draws(), cfg).items()} == pytest.approx(
        {
            "D_loss": (1 - 0.3 + 1 - 0.6) / 2 + (1 - 0.75 + 1 - 0.25) / 2,
            # Each of 16 pixels moves the map's mean by (c + 1) / 16.
            "D_r1": 3 * (1 / 16 + 4 / 16) / 2,
        }
    )
    assert {k: float(v.detach()) for k, v in funit.g_loss(nets, b, draws(), cfg).items()} == pytest.approx(
        {
            "G_loss": (0.75 + 0.25) / 2,
            # x / 2 + 0.15 for 0.2 and 0.4.
            "G_image": 0.5 * 0.05,
            "G_features": 3 * 0.55,
        }
    )


@torch.no_grad()
def test_funit_averages_class_codes_and_takes_any_size() -> None:
    cfg = funit.Config(resolution=32, ngf=2, ndf=1, res_blocks=1, n_layers=1, mlp_dim=4, style_dim=3, classes=2)
    G = funit.build(cfg).G.eval()
    assert isinstance(G, Styled) and (G.style_prior, G.own_style) == (False, True)
    x, y = torch.rand(2, 3, 16, 24) * 2 - 1, torch.rand(3, 3, 40, 17) * 2 - 1
    code = G.encode_style(y).mean(0, keepdim=True)
    made = G.translate(x, style=code)
    assert made.shape == x.shape and made.abs().max() <= 1
    assert (G.translate(x[1:], style=code) - made[1:]).abs().max() <= 1e-5
    assert torch.equal(G.translate(x), G.translate(x, style=G.encode_style(x)))
    assert G.translate(torch.zeros(1, 3, 8, 8), style=code).shape == (1, 3, 8, 8)
    assert G.encode_style(torch.zeros(1, 3, 3, 3)).shape == (1, 3)


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    for module, side, why in ((munit, 66, "side 2 times"), (munit, 32, "need 64 px"), (funit, 100, "side 3 times")):
        with pytest.raises(UsageError, match=why):
            module.build(module.Config(resolution=side))
    with pytest.raises(UsageError, match="need 32 px"):
        funit.build(funit.Config(resolution=16))


def test_published_files_hold_domains_and_averages() -> None:
    """As the authors' programs save them: `a` and `b` are one network, `gen_test` is the average of `gen`."""
    weights = read(golden("munit_adain_generator.safetensors"))[0]
    ((key, whole),) = networks_in({"a": weights, "b": weights})
    assert key == "" and munit.from_upstream(whole) is not None  # type: ignore[arg-type]
    alone = munit.from_upstream(weights)
    assert alone is not None and {k[:2] for k in alone[1]["G"]} == {"A.", "B."}
    shots = read(golden("funit_fewshot_generator.safetensors"))[0]
    assert average_name("G", "gen_test", "G") == "G_ema" and average_name("G", "gen", "G") == "G"
    found = {key: funit.from_upstream(state) for key, state in networks_in({"gen": shots, "gen_test": shots})}  # type: ignore[arg-type]
    assert list(found) == ["gen", "gen_test"] and all(f is not None and "G" in f[1] for f in found.values())
    assert munit.from_upstream({f"{side}.{k}": v for side in "ab" for k, v in shots.items()}) is None
    # One domain without a style encoder, of other depth, or of flat tensors, is none of these.
    for broken in (
        {k: v for k, v in whole.items() if not k.startswith("b.enc_style")},  # type: ignore[union-attr]
        {k: v.flatten() for k, v in whole.items()},  # type: ignore[union-attr]
        {k: v for k, v in whole.items() if "a.mlp.model.1" not in k},  # type: ignore[union-attr]
    ):
        assert munit.from_upstream(broken) is None
    critic = read(golden("funit_discriminator.safetensors"))[0]
    assert funit.from_upstream({k: v for k, v in critic.items() if "cnn_f.9." not in k}) is None
    assert funit.from_upstream({k: v.flatten() for k, v in critic.items()}) is None
