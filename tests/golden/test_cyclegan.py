"""CycleGAN's generators and image pool against numbers recorded from the authors' program, and its losses by hand."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ganctl.errors import UsageError
from ganctl.models import cyclegan
from ganctl.nn.norm import BatchNorm
from ganctl.phase import Batch, Progress
from ganctl.protocols import Translator
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream

GENERATORS = {"6blocks": 6, "9blocks_old_instancenorm_buffers": 9, "batchnorm": 6}


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_generator(name: str) -> None:
    weights, inputs, outputs, config = read(golden(f"cyclegan_resnet_generator_{name}.safetensors"))
    found = cyclegan.from_upstream(weights)
    assert found is not None
    assert (found[0]["res_blocks"], found[0]["ngf"]) == (GENERATORS[name], config["ngf"])
    assert found[0]["norm"] == config["norm"]
    G = upstream(cyclegan, weights, "G")
    assert isinstance(G, Translator) and G.reverse is None
    close(G.translate(inputs["image"]), outputs["image"], 2e-5)
    assert any(isinstance(m, BatchNorm) for m in G.modules()) == (name == "batchnorm")
    if name == "batchnorm":
        close(G.train()(inputs["image"]), outputs["image_batchstats"], 2e-5)


def test_generator_with_dropout_between_a_blocks_convolutions() -> None:
    """GAN Compression's full networks count one layer more, which draws nothing at test time."""
    weights, *_ = read(golden("cyclegan_resnet_generator_6blocks.safetensors"))
    counted = {k.replace("conv_block.5.", "conv_block.6."): v for k, v in weights.items()}
    assert counted.keys() != weights.keys()
    ours, theirs = (upstream(cyclegan, state, "G").state_dict() for state in (weights, counted))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_pool() -> None:
    """The reference's draws, made anew from its seed, give its answers one by one."""
    path = golden("cyclegan_image_pool.safetensors")
    tensors = load_file(path)
    with safe_open(path, "pt") as f:
        config = json.loads(f.metadata()["config"])
    size, images = config["pool_size"], tensors["in.images"]
    theirs = random.Random(config["python_seed"])
    pool, held, start, returned = cyclegan.Pool(size, 1, 1), 0, 0, []
    for count in config["batches"]:
        draws = torch.zeros(count, 2)
        for row in draws:
            if held < size:
                held += 1
            else:
                row[0] = theirs.uniform(0, 1)
                row[1] = (theirs.randint(0, size - 1) + 0.5) / size if row[0] > 0.5 else 0
        returned.append(pool.query(images[start : start + count], draws))
        start += count
    assert torch.equal(torch.cat(returned).flatten(), tensors["out.returned_ids"].flatten().float())
    assert torch.equal(pool.images.flatten(), tensors["out.pool_ids_after"].flatten().float())


class Level(nn.Module):
    """A discriminator that answers with the mean of its image, or a mapping that adds a number."""

    def __init__(self, add: float | None = None) -> None:
        super().__init__()
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3)) if self.add is None else x + self.add


def test_losses_by_hand() -> None:
    cfg = cyclegan.Config(resolution=12, ngf=1, ndf=1, res_blocks=1, n_layers=2, pool=2)
    nets = cyclegan.build(cfg)
    nets.D.A, nets.D.B = Level(), Level()  # type: ignore[assignment]
    nets.G.AtoB, nets.G.BtoA = Level(0.25), Level(-0.5)  # type: ignore[assignment]
    b = Batch(torch.full((1, 3, 12, 12), 0.1), torch.full((1, 3, 12, 12), 0.4))

    def value(terms: dict[str, torch.Tensor]) -> dict[str, float]:
        return {k: round(float(v), 5) for k, v in terms.items()}

    p = Progress(0, 0, torch.Generator().manual_seed(0), torch.device("cpu"))
    # G(x) = 0.35, F(y) = -0.1; there and back again -0.25 off either way; G moves y by 0.25, F moves x by 0.5.
    assert value(cyclegan.d_loss(nets, b, p)) == {"D_loss_B": 0.24125, "D_loss_A": 0.41}
    assert value(cyclegan.g_loss(nets, b, p, cfg)) == {
        "G_loss_B": 0.4225, "G_loss_A": 1.21, "G_cycle": 5.0, "G_identity": 3.75,
    }  # fmt: skip
    assert "G_identity" not in cyclegan.g_loss(nets, b, p, cyclegan.Config(identity_weight=0.0))
    rate = cyclegan.optimizers(cfg)["G"].lr
    assert callable(rate)
    assert [round(rate(n, 1000) / cfg.glr, 6) for n in (0, 500, 750, 1000)] == [1, 1, 0.5, 0]
    with pytest.raises(UsageError, match="one way"):
        cyclegan.phases(cyclegan.Config(both_ways=False))


@torch.no_grad()
def test_tiny_pictures_and_the_way_back() -> None:
    cfg = cyclegan.Config(resolution=12, source_channels=1, ngf=2, ndf=1, res_blocks=1, n_layers=2, pool=1)
    G = cyclegan.build(cfg).G.eval()
    assert G.translate(torch.zeros(1, 1, 4, 12)).shape == (1, 3, 4, 12)
    assert isinstance(G.reverse, Translator) and (G.reverse.source, G.reverse.target) == (G.target, G.source)
    assert G.reverse.translate(torch.zeros(1, 3, 4, 4)).shape == (1, 1, 4, 4)
