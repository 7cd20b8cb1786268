"""SNGAN, SAGAN, BigGAN and BigGAN-deep against numbers recorded from the authors' PyTorch code and Hugging Face's."""

import pytest
import torch
from torch import Tensor, nn

from ganctl.losses.adversarial import hinge_d, log_loss_d, non_saturating_g, wasserstein_g
from ganctl.models import biggan, biggan_deep, sagan, sngan
from ganctl.nn.attention import SelfAttention
from ganctl.nn.spectral import SNConv2d, SNEmbedding, SNLinear
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream


def fill(net: nn.Module, weights: dict[str, Tensor], prefix: str = "") -> nn.Module:
    """The reference's own keys; sv0 is its log of a singular value."""
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix) and not k.endswith("sv0")}
    net.load_state_dict(own)
    return net.eval()


def same_after(net: nn.Module, outputs: dict[str, Tensor], prefix: str = "") -> int:
    """Every buffer as the reference has it after a call in training mode; how many there are."""
    buffers = dict(net.named_buffers())
    found = 0
    for key, ref in outputs.items():
        if key.startswith(f"train.after.{prefix}") and not key.endswith("sv0"):
            ours, found = buffers[key.removeprefix(f"train.after.{prefix}")], found + 1
            # A vector's sign is free where its row is alone.
            close(ours.abs() if ours.numel() == 1 else ours, ref.abs() if ref.numel() == 1 else ref)
    return found


@torch.no_grad()
def test_spectral_norm_takes_one_step_in_evaluation_and_keeps_it_in_training() -> None:
    weights, inputs, outputs, _ = read(golden("spectral-norm-layers.safetensors"))
    layers = {"conv": SNConv2d(7, 9, 3), "linear": SNLinear(7, 9), "embed": SNEmbedding(5, 9)}
    given = {"conv": inputs["x_img"], "linear": inputs["x"], "embed": inputs["idx"]}
    for name, layer in layers.items():
        fill(layer, weights, f"{name}.")
        before = layer.get_buffer("u0").clone()
        close(layer(given[name]), outputs[f"eval.{name}"])
        assert torch.equal(layer.get_buffer("u0"), before)
        close(layer.train()(given[name]), outputs[f"train.{name}"])
        assert same_after(layer, outputs, f"{name}.") == 1


@torch.no_grad()
def test_self_attention() -> None:
    weights, inputs, outputs, config = read(golden("sagan-attention-sn.safetensors"))
    layer = fill(SelfAttention(config["ch"]), weights)
    close(layer(inputs["x"]), outputs["eval.y"])
    close(layer.train()(inputs["x"]), outputs["train.y"])
    assert same_after(layer, outputs) == 4


@torch.no_grad()
def test_biggan_generator_and_what_training_leaves() -> None:
    weights, inputs, outputs, config = read(golden("biggan-g-r32.safetensors"))
    G = upstream(biggan, weights, "G")
    assert (G.z_dim, G.c.n, G.x.size) == (config["dim_z"], config["n_classes"], (32, 32))
    y = G.shared(inputs["y"])
    close(y, outputs["eval.shared"])
    close(G(inputs["z"], y), outputs["eval.img"])
    close(G.sample(inputs["z"][1:], inputs["y"][1:]), outputs["eval.img"][1:])
    close(G.train()(inputs["z"], y), outputs["train.img"])
    assert same_after(G, outputs) == 41


@torch.no_grad()
def test_biggan_discriminator_and_the_hinge_loss() -> None:
    weights, inputs, outputs, _ = read(golden("biggan-d-r32.safetensors"))
    D = upstream(biggan, weights, "D")
    close(D(inputs["img"], inputs["y"]), outputs["eval.logits"].flatten())
    close(D.train()(inputs["img"], inputs["y"]), outputs["train.logits"].flatten())
    assert same_after(D, outputs) == 28
    real, fake = inputs["loss_real"], inputs["loss_fake"]
    close(hinge_d(real, fake), outputs["hinge.d_real"] + outputs["hinge.d_fake"])
    close(wasserstein_g(fake), outputs["hinge.g"])
    close(log_loss_d(real, fake), outputs["softplus.d_real"] + outputs["softplus.d_fake"])
    close(non_saturating_g(fake), outputs["softplus.g"])


@torch.no_grad()
def test_sngan_discriminator() -> None:
    weights, inputs, outputs, config = read(golden("biggan-d-sngan-r32.safetensors"))
    assert biggan.from_upstream(weights) is None and sagan.from_upstream(weights) is None
    D = upstream(sngan, weights, "D")
    assert D.classes == config["n_classes"]
    # The reference was run with ε 1e-6, which is of no account beside these vectors.
    close(D(inputs["img"], inputs["y"]), outputs["eval.logits"].flatten())


@torch.no_grad()
def test_biggan_deep_of_the_authors() -> None:
    weights, inputs, outputs, _ = read(golden("bigganpt-deep-g-r32.safetensors"))
    assert biggan.from_upstream(weights) is None
    G = upstream(biggan_deep, weights, "G")
    close(G(inputs["z"], G.shared(inputs["y"])), outputs["eval.img"])
    weights, inputs, outputs, _ = read(golden("bigganpt-deep-d-r32.safetensors"))
    D = upstream(biggan_deep, weights, "D")
    close(D(inputs["img"], inputs["y"]), outputs["eval.logits"].flatten())


@pytest.mark.parametrize("psi", [0.03, 0.40, 0.47, 1.0])
@torch.no_grad()
def test_biggan_deep_of_hugging_face_by_truncation(psi: float) -> None:
    weights, inputs, outputs, config = read(golden("biggan-deep-hf-g-r32.safetensors"))
    G = upstream(biggan_deep, weights, "G")
    assert (G.z_dim, G.c.n) == (config["z_dim"], config["num_classes"])
    y = G.shared(inputs["y"].argmax(1))
    close(y, outputs["embed"])
    close(G(inputs["z"], y, psi), outputs[f"trunc{round(psi * 100):03d}.img"])
