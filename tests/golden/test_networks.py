"""DCGAN, U-Net, PatchGAN and the shared losses against numbers recorded from the reference programs.

`weights.*` go in under the reference's own keys, through each family's `from_upstream` where it has one; every output
must agree within 1e-4 · max(1, max|ref|).
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ganctl.config import parse
from ganctl.io.tensors import load_into
from ganctl.losses import adversarial as losses
from ganctl.losses.regularizers import gradient_norms, gradient_penalty
from ganctl.models import dcgan, pix2pix
from ganctl.nn.norm import BatchNorm
from ganctl.nn.patchgan import PatchGAN
from tests.conftest import golden


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict]:
    """Weights, inputs, outputs, the reference's arguments."""
    with safe_open(path, "pt") as f:
        every = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        config = json.loads(f.metadata()["config"])
    parts = ({k.partition(".")[2]: v for k, v in every.items() if k.startswith(p)} for p in ("weights.", "in.", "out."))
    weights, inputs, outputs = parts
    return weights, inputs, outputs, config


def close(ours: Tensor, ref: Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == ref.shape
    error = float((ours.detach().double() - ref.double()).abs().max())
    assert error <= tolerance * max(1.0, float(ref.abs().max())), f"off by {error:.2e}"


def upstream(module, weights: dict[str, Tensor], net: str, **extra: object) -> torch.nn.Module:
    """The network that `from_upstream` sees in the reference's keys, filled with them."""
    found = module.from_upstream(weights)
    assert found is not None
    config, states = found
    built = getattr(module.build(parse(module.Config, {**config, **extra}, where="golden")), net)
    load_into(built, states[net], where="golden")
    return built.eval()


@torch.no_grad()
def test_dcgan_generator_and_its_running_statistics() -> None:
    weights, inputs, outputs, config = read(golden("dcgan-g-r64.safetensors"))
    G = upstream(dcgan, weights, "G")
    assert (G.z_dim, G.x.channels) == (config["nz"], config["nc"])
    z = inputs["z"].flatten(1)
    close(G(z), outputs["eval.img"])
    close(G.sample(z[1:]), outputs["eval.img"][1:])
    close(G.train()(z), outputs["train.img"])
    after = G.state_dict()
    buffers = [k for k in outputs if k.startswith("train.after.")]
    assert len(buffers) == 12
    for key in buffers:
        close(after[key.removeprefix("train.after.")], outputs[key])


@torch.no_grad()
def test_dcgan_discriminator_and_the_log_loss() -> None:
    weights, inputs, outputs, config = read(golden("dcgan-d-r64.safetensors"))
    D = upstream(dcgan, weights, "D")
    assert D.main[0].out_channels == config["ndf"]
    for mode in ("eval", "train"):
        logits = D.train(mode == "train")(inputs["img"])
        close(logits.sigmoid(), outputs[f"{mode}.prob"])
        close(F.binary_cross_entropy_with_logits(logits, inputs["labels"]), outputs[f"{mode}.bce"])
    after = D.state_dict()
    buffers = [k for k in outputs if k.startswith("train.after.")]
    assert len(buffers) == 9
    for key in buffers:
        close(after[key.removeprefix("train.after.")], outputs[key])


@torch.no_grad()
def test_unet_with_batch_norm_stored_and_batch_statistics() -> None:
    weights, inputs, outputs, config = read(golden("pix2pix_unet_generator_batchnorm.safetensors"))
    G = upstream(pix2pix, weights, "G", test_time="stored")
    assert config["num_downs"] == 5 and G.stride == 32
    close(G(inputs["image"]), outputs["image"])
    close(G.translate(inputs["image"]), outputs["image"])
    before = {k: v.clone() for k, v in G.state_dict().items()}
    for m in G.modules():
        if isinstance(m, BatchNorm):
            m.batch_statistics = True
    close(G(inputs["image"]), outputs["image_batchstats_nodropout"])
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items()), "test time changed the weights"
    close(G.train()(inputs["image"]), outputs["image_batchstats_nodropout"])


@torch.no_grad()
def test_unet_with_instance_norm_also_from_a_file_with_stale_statistics() -> None:
    weights, inputs, outputs, config = read(golden("pix2pix_unet_generator_instancenorm.safetensors"))
    G = upstream(pix2pix, weights, "G")
    assert config["num_downs"] == 6 and G.stride == 64 and not G.dropout
    close(G(inputs["image"]), outputs["image"])
    close(G.translate(inputs["image"]), outputs["image"])
    norm = "model.model.1.model.2"
    stale = {f"{norm}.running_mean": torch.ones(6), f"{norm}.running_var": torch.ones(6)}
    close(upstream(pix2pix, {**weights, **stale}, "G")(inputs["image"]), outputs["image"])


@pytest.mark.parametrize("norm", ["batch", "instance"])
@torch.no_grad()
def test_unet_excerpt(norm: str) -> None:
    """The two files above, cut to the first image and every 4th pixel of the output: these travel with the tests."""
    weights, inputs, outputs, _ = read(golden(f"pix2pix_unet_generator_{norm}norm_excerpt.safetensors"))
    G = upstream(pix2pix, weights, "G", test_time="stored")
    close(G(inputs["image"])[:, :, ::4, ::4], outputs["image"])


@pytest.mark.parametrize("norm", ["batch", "instance"])
@torch.no_grad()
def test_patchgan(norm: str) -> None:
    weights, inputs, outputs, config = read(golden(f"patchgan_nlayer_discriminator_{norm}norm.safetensors"))
    found = pix2pix.from_upstream(weights)
    assert found is not None
    assert found[0] == {"ndf": config["ndf"], "n_layers": config["n_layers"], "norm": norm}
    D = PatchGAN(config["input_nc"], ndf=config["ndf"], n_layers=config["n_layers"], norm=norm)
    load_into(D, found[1]["D"], where="golden")
    close(D.eval()(inputs["image"]), outputs["logits"])


def test_losses_and_the_gradient_penalty() -> None:
    weights, inputs, outputs, _ = read(golden("pix2pix_gan_losses.safetensors"))
    p, none = inputs["prediction"], torch.zeros(1)
    # log_loss_d adds the real and the generated half: softplus(-x) of the one, softplus(x) of the other, log 2 at 0.
    log2 = float(torch.log(torch.tensor(2.0)))
    close(losses.log_loss_d(p, none) - log2, outputs["vanilla.target_real"])
    close(losses.log_loss_d(none, p) - log2, outputs["vanilla.target_fake"])
    close(losses.non_saturating_g(p), outputs["vanilla.target_real"])
    close(-losses.minimax_g(p), outputs["vanilla.target_fake"])
    for name, high, low in (("lsgan", 1.0, 0.0), ("lsgan_labels_0.9_0.1", 0.9, 0.1)):
        # The reference has no factor ½ (Mao et al. 2017, eq. 2 has).
        close(2 * losses.least_squares_g(p, high), outputs[f"{name}.target_real"])
        close(2 * losses.least_squares_g(p, low), outputs[f"{name}.target_fake"])
        both = outputs[f"{name}.target_real"] + outputs[f"{name}.target_fake"]
        close(2 * losses.least_squares_d(p, p, low, high), both)
    close(losses.wasserstein_g(p), outputs["wgangp.target_real"])
    close(losses.wasserstein_d(none, p), outputs["wgangp.target_fake"])
    D = PatchGAN(3, ndf=4, n_layers=2, norm="instance")
    load_into(D, weights, where="golden")
    alpha, real, fake = inputs["alpha"][:, 0], inputs["real"], inputs["fake"]
    for name, weight in (("real", torch.ones(2)), ("fake", torch.zeros(2)), ("mixed", alpha)):
        x = weight.view(-1, 1, 1, 1) * real + (1 - weight.view(-1, 1, 1, 1)) * fake
        close(gradient_norms(D, x), outputs[f"gradient_norms.{name}"])
        close(10 * gradient_penalty(D, real, fake, weight), outputs[f"gradient_penalty.{name}"])
