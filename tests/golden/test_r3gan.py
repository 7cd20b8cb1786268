"""R3GAN's networks, losses, penalties and gradients against numbers recorded from the authors' program.

The smallest file travels with the tests: brownvc/R3GAN@19a7ddf on a CPU, its plain PyTorch operators, random weights.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ganctl.config import parse
from ganctl.io.tensors import load_into
from ganctl.losses.regularizers import logits_and_penalty
from ganctl.models import r3gan
from ganctl.phase import Batch, Progress
from tests.conftest import golden
from tests.golden.test_networks import close

FILES = tuple(f"r3gan-{name}.safetensors" for name in ("uncond-r32", "cond-r16", "cond-tiny-r16"))


class Given(Progress):
    """Draws the recorded z."""

    def __init__(self, z: Tensor) -> None:
        super().__init__(0, 0, torch.Generator(), torch.device("cpu"))
        self.z = z

    def normal(self, n: int, *shape: int) -> Tensor:
        assert (n, *shape) == self.z.shape
        return self.z


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["config"])  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def networks(tensors: dict[str, Tensor], gamma: float) -> tuple[r3gan.Config, r3gan.Nets]:
    """Both networks, of the config that the generator's shapes tell and the discriminator's agree with."""
    found = {net: r3gan.from_upstream(part(tensors, f"weights.{net}.")) for net in "GD"}
    config, _ = found["G"]
    assert config.items() >= found["D"][0].items()
    cfg = parse(r3gan.Config, {**config, "gamma": gamma, "gamma_end": gamma}, where="golden")
    nets = r3gan.build(cfg)
    for net in "GD":
        load_into(getattr(nets, net), found[net][1][net], where="golden")
    return cfg, nets


@pytest.mark.parametrize("name", FILES)
def test_networks_losses_penalties_and_gradients(name: str) -> None:
    tensors, config = read(golden(name))
    cfg, nets = networks(tensors, config["gamma"])
    assert (cfg.classes or 0, cfg.resolution) == (config["G"]["c_dim"], config["G"]["img_resolution"])
    assert list(cfg.widths) == config["G"]["WidthPerStage"] == config["D"]["WidthPerStage"][::-1]
    out, z, real = part(tensors, "out."), tensors["in.z"], tensors["in.real_img"]
    c = tensors["in.c"].argmax(1) if "in.c" in tensors else None
    fake = nets.G(z, c)
    close(fake, out["G.img"])
    close(nets.G.sample(z, c), out["G.img"].clamp(-1, 1))
    real_logits, r1 = logits_and_penalty(lambda x: nets.D(x, c), real)
    fake_logits, r2 = logits_and_penalty(lambda x: nets.D(x, c), fake)
    close(real_logits, out["D.real_logits"])
    close(fake_logits, out["D.fake_logits"])
    close(r1 / out["Dphase.r1_penalty"], torch.ones(len(z)), 1e-3)
    close(r2 / out["Dphase.r2_penalty"], torch.ones(len(z)), 1e-3)
    close(real_logits - fake_logits, out["Dphase.relativistic_logits"])
    close(fake_logits - real_logits, out["Gphase.relativistic_logits"])
    losses = {phase.name: phase.loss for phase in r3gan.phases(cfg)}
    for net in "DG":
        terms = losses[net](nets, Batch(real, None, c), Given(z))
        close(terms[f"{net}_loss"], out[f"{net}phase.loss"].mean())
        if net == "D":
            close(terms["D_r1"], config["gamma"] / 2 * out["Dphase.r1_penalty"].mean())
            close(terms["D_r2"], config["gamma"] / 2 * out["Dphase.r2_penalty"].mean())
        parameters = dict(getattr(nets, net).named_parameters())
        gradients = torch.autograd.grad(sum(terms.values()), list(parameters.values()))
        expected = part(out, f"{net}phase.grad.")
        assert expected.keys() == parameters.keys()
        for key, gradient in zip(parameters, gradients, strict=True):
            close(gradient, expected[key])
            close(gradient.norm() / expected[key].norm(), torch.ones(()), 1e-3)
