"""pix2pixHD's networks against numbers recorded from the authors' program, and its losses by hand."""

from pathlib import Path

import pytest
import torch

from ganctl.config import parse
from ganctl.errors import UsageError
from ganctl.io.tensors import load_into
from ganctl.load import load
from ganctl.losses.adversarial import least_squares_d, least_squares_g
from ganctl.models import cyclegan, pix2pixhd
from ganctl.phase import Batch, Progress
from ganctl.protocols import Translator
from ganctl.workflows.convert import ConvertRequest, run
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream

TINY = {"resolution": 16, "ngf": 2, "ndf": 2, "num_downs": 2, "res_blocks": 1, "num_d": 2, "n_layers": 2,
        "encoder_downs": 1, "nef": 2, "local_blocks": 1, "perceptual_weight": 0.0}  # fmt: skip


def nets(**changes: object) -> tuple[pix2pixhd.Config, pix2pixhd.Nets]:
    cfg = parse(pix2pixhd.Config, {**TINY, **changes}, where="pix2pixhd")
    torch.manual_seed(0)
    return cfg, pix2pixhd.build(cfg)


@torch.no_grad()
def test_global_generator() -> None:
    weights, inputs, outputs, config = read(golden("pix2pixhd_global_generator.safetensors"))
    G = upstream(pix2pixhd, weights, "G", ndf=2, perceptual_weight=0.0)
    assert isinstance(G, Translator) and G.stride == 2 ** config["n_downsampling"]
    # Five channels are no picture's: four classes and their boundaries.
    assert (G.label_nc, G.source.channels) == (4, 3)
    close(G(inputs["image"]), outputs["image"], 1e-5)


@torch.no_grad()
def test_local_enhancer() -> None:
    weights, inputs, outputs, config = read(golden("pix2pixhd_local_enhancer.safetensors"))
    G = upstream(pix2pixhd, weights, "G", ndf=2, perceptual_weight=0.0)
    assert (G.label_nc, G.source.channels, G.stride) == (None, 4, 2 ** (config["n_downsample_global"] + 1))
    close(G(inputs["image"]), outputs["image"], 1e-5)
    close(G.translate(inputs["image"]), outputs["image"], 1e-5)


@torch.no_grad()
def test_feature_encoder() -> None:
    weights, inputs, outputs, config = read(golden("pix2pixhd_feature_encoder.safetensors"))
    cfg = pix2pixhd.Config(nef=config["ngf"], encoder_downs=config["n_downsampling"])
    E = pix2pixhd.Encoder(cfg)
    load_into(E, weights, where="golden")
    close(E(inputs["image"], inputs["instance"][:, 0].long()), outputs["features"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["discriminator", "discriminator_nofeat"])
def test_multiscale_discriminators(name: str) -> None:
    weights, inputs, outputs, config = read(golden(f"pix2pixhd_multiscale_{name}.safetensors"))
    channels = config["input_nc"]
    D = upstream(pix2pixhd, weights, "D", source_channels=channels - 3, ngf=2, res_blocks=1, perceptual_weight=0.0)
    scales = D(inputs["image"])
    assert len(scales) == config["num_D"]
    for k, features in enumerate(scales):
        if config["getIntermFeat"]:
            for j, f in enumerate(features):
                close(f, outputs[f"scale{k}.feat{j}"], 1e-5)
        else:
            close(features[-1], outputs[f"scale{k}.feat0"], 1e-5)
    nothing = torch.zeros(1)
    # The authors' losses have no ½, which d_loss and g_loss put right.
    real = sum(2 * least_squares_g(f[-1], 1.0) for f in scales)
    fake = sum(2 * least_squares_d(nothing, f[-1], 0.0, 0.0) for f in scales)
    close(torch.as_tensor(real), outputs["lsgan_real"], 1e-5)
    close(torch.as_tensor(fake), outputs["lsgan_fake"], 1e-5)


def packed(classes: list[list[int]], objects: list[list[int]]) -> torch.Tensor:
    k, o = torch.tensor([classes]), torch.tensor([objects])
    return torch.stack([k, o // 256, o % 256], 1) / 127.5 - 1


def test_label_maps_become_one_channel_a_class_and_boundaries() -> None:
    _, n = nets(label_nc=3)
    x = packed([[0, 0, 2, 7], [0, 0, 2, 7]], [[1, 1, 300, 300], [1, 2, 300, 300]])
    s = n.G.condition(x)[0]
    assert s[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert s[1].sum() == 0
    # A class that is none of the three is no class.
    assert s[2].tolist() == [[0, 0, 1, 0], [0, 0, 1, 0]]
    assert s[3].tolist() == [[0, 1, 1, 0], [1, 1, 1, 0]]
    _, plain = nets(label_nc=3, boundaries=False)
    assert plain.G.condition(x).shape[1] == 3


def test_features_are_means_over_objects_and_kept_for_each_class() -> None:
    _, n = nets(label_nc=3, features=True, bank=2, feature_channels=1)
    assert n.G.E is not None and n.G.bank is not None
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    objects = torch.zeros(2, 16, 16, dtype=torch.long)
    objects[:, 8:] = 5
    raw, means = n.G.E.model(image), n.G.E(image, objects)
    for i in range(2):
        for rows in (slice(8), slice(8, 16)):
            assert torch.allclose(means[i, :, rows], raw[i, :, rows].mean((1, 2))[:, None, None].expand(-1, 8, 16))
    bank = n.G.bank
    classes = torch.where(objects == 5, 2, 0)
    bank.keep(means, classes, torch.full((2, 3), 0.5))
    assert bank.count.tolist() == [2, 0, 2]
    assert torch.equal(bank.values[2, :, 0], means[:, 0, 15, 0])
    bank.keep(means + 1, classes, torch.full((2, 3), 0.5))
    assert torch.equal(bank.values[0, :, 0], means[:, 0, 0, 0] + 1)
    drawn = {seed: bank.draw(classes[0], objects[0], seed) for seed in range(8)}
    assert {float(d[0, 15, 0]) for d in drawn.values()} == set(bank.values[2, :, 0].tolist())
    assert all(len(d[0, 8:].unique()) == 1 for d in drawn.values())
    assert bank.draw(torch.ones_like(classes[0]), objects[0], 0).abs().sum() == 0
    with pytest.raises(UsageError, match="objects are told apart"):
        nets(features=True)


def batch(cfg: pix2pixhd.Config) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 3, (1, 3, 16, 16), generator=g) / 127.5 - 1 if cfg.label_nc else torch.rand(1, 3, 16, 16)
    return Batch(x, torch.rand(1, 3, 16, 16, generator=g) * 2 - 1)


def progress(nimg: int = 0) -> Progress:
    return Progress(nimg, 0, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_losses_by_hand() -> None:
    cfg, n = nets()

    class Scales(torch.nn.Module):
        """Two scales of two layers of features and logits, all the image's mean, times a number."""

        def forward(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
            mean = x[:, 3:].mean((1, 2, 3), keepdim=True)
            return [[k * mean, 2 * k * mean, 3 * k * mean] for k in (1, 2)]

    class Grey(torch.nn.Module):
        E = bank = None

        def condition(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def forward(self, s: torch.Tensor, *, enhancers_only: bool = False) -> torch.Tensor:
            return torch.full((1, 3, 16, 16), 0.25)

    n.G, n.D = Grey(), Scales()  # type: ignore[assignment]
    b = Batch(torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5))
    # Logits of real images 1.5 and 3, of generated ones 0.75 and 1.5.
    d = pix2pixhd.d_loss(n, b, progress())["D_loss"]
    assert float(d) == pytest.approx(0.5 * (0.5**2 + 2**2 + 0.75**2 + 1.5**2))
    terms = pix2pixhd.g_loss(n, b, progress(), cfg)
    assert float(terms["G_loss"]) == pytest.approx(0.25**2 + 0.5**2)
    # (0.25 + 0.5 + 0.5 + 1) over two scales, four layers' weight for two.
    assert float(terms["G_matching"]) == pytest.approx(10 * 2.25 / 2 * 4 / 2)

    class Eye:
        """In the place of VGG, one layer: the image."""

        def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).abs().mean()

    n.vgg = Eye()  # type: ignore[assignment]
    assert float(pix2pixhd.g_loss(n, b, progress(), pix2pixhd.Config())["G_perceptual"]) == pytest.approx(2.5)
    assert "G_matching" not in pix2pixhd.g_loss(n, b, progress(), pix2pixhd.Config(matching_weight=0.0))


def test_vgg_is_there_where_it_has_a_weight() -> None:
    cfg = parse(pix2pixhd.Config, {**TINY, "perceptual_weight": 10.0}, where="pix2pixhd")
    with torch.device("meta"):
        vgg = pix2pixhd.build(cfg).vgg
    assert vgg is not None and len(vgg.outputs) == 5
    assert pix2pixhd.given(cfg) == {"vgg.features": "vgg19-imagenet"}
    assert pix2pixhd.given(pix2pixhd.Config(perceptual_weight=0.0)) == {}


def test_g1_stays_while_its_enhancer_learns() -> None:
    cfg, n = nets(network="local", enhancer_kimg=1.0, label_nc=3, features=True)
    for nimg, moves in ((999, False), (1000, True)):
        n.G.zero_grad(set_to_none=True)
        torch.stack(list(pix2pixhd.g_loss(n, batch(cfg), progress(nimg), cfg).values())).sum().backward()
        grads = {name.partition(".")[0]: p.grad is not None for name, p in n.G.named_parameters()}
        # What the encoder finds reaches G through the enhancer too.
        assert grads == {"E": True, "model": moves, "model1_1": True, "model1_2": True}


@torch.no_grad()
def test_translation_of_small_label_maps_is_drawn_by_the_seed() -> None:
    cfg, n = nets(label_nc=3, features=True, bank=4)
    G = n.G.eval()
    assert G.bank is not None
    G.bank.values.normal_(generator=torch.Generator().manual_seed(0))
    G.bank.count.fill_(4)
    x = batch(cfg).x[..., :5, :12]
    pictures = [G.translate(x, seed=seed) for seed in (1, 1, 2)]
    assert pictures[0].shape == (1, 3, 5, 12)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert torch.allclose(G.translate(torch.cat([x, x]), seed=2)[1:], pictures[2], atol=1e-5)


def test_published_layouts_round_trip() -> None:
    for changes in (
        {"network": "local", "label_nc": 7, "ngf": 3},
        {"norm": "batch", "source_channels": 1, "num_downs": 3},
    ):
        cfg, n = nets(**changes)
        for net in ("G", "D"):
            found = pix2pixhd.from_upstream(getattr(n, net).state_dict())
            assert found is not None and list(found[1]) == [net]
            assert all(getattr(cfg, k) == v for k, v in found[0].items()), found[0]
            assert found[1][net].keys() == getattr(n, net).state_dict().keys()


def test_the_authors_file_becomes_a_bundle(tmp_path: Path) -> None:
    _, n = nets(network="local", label_nc=35)
    torch.save(n.G.state_dict(), tmp_path / "latest_net_G.pth")
    run(ConvertRequest(source=str(tmp_path / "latest_net_G.pth"), out=str(tmp_path / "city"), license="BSD-2-Clause"))
    net = load(str(tmp_path / "city"), device="cpu").net
    assert (net.label_nc, net.boundaries, net.source.numbers, net.enhancers) == (35, True, True, 1)
    x = torch.zeros(1, 3, 16, 16)
    assert torch.equal(net.translate(x), n.G.eval().translate(x))


def test_cyclegans_generators_are_left_to_cyclegan() -> None:
    G = cyclegan.build(cyclegan.Config(resolution=24, ngf=2, ndf=2, res_blocks=2)).G.AtoB
    assert cyclegan.from_upstream(G.state_dict()) is not None and pix2pixhd.from_upstream(G.state_dict()) is None
    local = nets(network="local")[1].G.state_dict()
    assert cyclegan.from_upstream(local) is None and pix2pixhd.from_upstream(local) is not None
