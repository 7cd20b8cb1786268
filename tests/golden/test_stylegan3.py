"""StyleGAN3's generators, T and R, against the numbers of NVIDIA's code: each layer, running means, truncation."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.io.tensors import load_into
from ganctl.models import stylegan3
from tests.conftest import golden
from tests.golden.test_networks import close, read


def configured(reference: dict[str, Any]) -> dict[str, Any]:
    """A reference's arguments in our words."""
    return {
        "resolution": reference["img_resolution"],
        "channels": reference["img_channels"],
        "classes": reference["c_dim"] or None,
        "mapping_layers": reference["mapping_kwargs"]["num_layers"],
        "kernel": reference.get("conv_kernel", 3),
        "radial_filters": reference.get("use_radial_filters", False),
        **{k: reference[k] for k in ("z_dim", "w_dim", "channel_base", "channel_max", "magnitude_ema_beta")},
    }


def opened(config: dict[str, Any], weights: dict[str, Tensor]) -> stylegan3.Generator:
    G = stylegan3.Generator(parse(stylegan3.Config, configured(config), where="golden")).eval()
    designed = {k: v.clone() for k, v in G.state_dict().items() if k.endswith("_filter")}
    load_into(G, weights, where="golden")
    for key, f in designed.items():
        assert (f - weights[key]).abs().max() <= 1e-7, key
    return G


def outputs_of(net: nn.Module) -> dict[str, Tensor]:
    """Fills, at the next call, what the Fourier features and each layer give."""
    seen: dict[str, Tensor] = {}
    for name, module in net.named_children():
        module.register_forward_hook(lambda _module, _args, result, name=name: seen.__setitem__(name, result))
    return seen


@pytest.mark.parametrize("name", ["t", "r"])
@torch.no_grad()
def test_generator(name: str) -> None:
    path = golden(f"stylegan3-{name}-uncond-r32.safetensors")
    weights, inputs, outputs, config = read(path)
    with safe_open(path, "pt") as f:
        names = json.loads(f.metadata()["layer_names"])
    G, z = opened(config, weights), inputs["z"]
    assert G.synthesis.names == names
    for call, psi, cutoff in (("psi1", 1.0, None), ("psi07", 0.7, None), ("psi05_cut5", 0.5, 5)):
        w = G.map(z, psi=psi, cutoff=cutoff)
        close(w, outputs[f"{call}.ws"])
        close(G.synthesis(w), outputs[f"{call}.img"])
        assert torch.equal(G.synthesize(w), G.synthesis(w).clamp(-1, 1))

    seen = outputs_of(G.synthesis)
    G.synthesis.input.transform.copy_(inputs["transform"])
    close(G.synthesis(G.map(z)), outputs["psi1_transform.img"])
    recorded = [k for k in outputs if k.startswith("psi1_transform.") and not k.endswith((".img", ".ws"))]
    assert len(recorded) == {"t": 5, "r": 1}[name]
    for key in recorded:
        close(seen[key.removeprefix("psi1_transform.")], outputs[key])

    G.synthesis.input.transform.copy_(torch.eye(3))
    w = G.mapping.truncated(G.mapping(z, track=True), G.synthesis.layers, 1.0, None)
    close(w, outputs["emas.ws"])
    close(G.synthesis(w, track=True), outputs["emas.img"])
    after = [k for k in outputs if k.startswith("emas.after.")]
    assert len(after) == 16
    for key in after:
        close(G.state_dict()[key.removeprefix("emas.after.")], outputs[key])


@pytest.mark.parametrize("name", ["t", "r"])
def test_layer_specifications(name: str) -> None:
    _, _, outputs, config = read(golden(f"stylegan3-{name}-uncond-r32.safetensors"))
    cfg = parse(stylegan3.Config, configured(config), where="golden")
    synthesis, made = stylegan3.Synthesis(cfg), stylegan3.signals(cfg)
    rows = []
    for layer_name, before, after in zip(synthesis.names, [made[0], *made], made, strict=False):
        layer = synthesis.get_submodule(layer_name)
        rows.append([layer.up, layer.down, *layer.padding * 2, before.size, after.size, before.rate, after.rate])
    assert rows == outputs["layer_specs"].tolist()


@pytest.mark.parametrize("net", ["G", "G_ema"])
@torch.no_grad()
def test_generators_of_a_snapshot(net: str) -> None:
    weights, inputs, outputs, config = read(golden("nvidia-pickle/stylegan3-t-tiny-r32.safetensors"))
    own = {k.removeprefix(f"{net}."): v for k, v in weights.items() if k.startswith(f"{net}.")}
    arguments = {**config["G_kwargs"], **{k: config[k] for k in ("c_dim", "img_resolution", "img_channels")}}
    G = opened(arguments, own)
    for call, psi in {"G": {"psi1": 1.0}, "G_ema": {"psi1": 1.0, "psi07": 0.7}}[net].items():
        w = G.map(inputs["z"], psi=psi)
        close(w, outputs[f"{net}.{call}.ws"])
        close(G.synthesis(w), outputs[f"{net}.{call}.img"])


@torch.no_grad()
def test_discriminator_of_a_snapshot() -> None:
    """StyleGAN2's, with the clamp of stylegan3's code."""
    weights, inputs, outputs, config = read(golden("nvidia-pickle/stylegan3-t-tiny-r32.safetensors"))
    widths = {f"d_{k}": config["D_kwargs"][k] for k in ("channel_base", "channel_max")}
    nets = stylegan3.build(stylegan3.Config(resolution=config["img_resolution"], z_dim=8, channel_max=8, **widths))
    load_into(nets.D, {k.removeprefix("D."): v for k, v in weights.items() if k.startswith("D.")}, where="golden")
    close(nets.D.eval()(inputs["img"]), outputs["D.logits"][:, 0])


@torch.no_grad()
def test_snapshot_excerpt() -> None:
    """G_ema of the snapshot with its first two images: this one travels with the tests."""
    weights, inputs, outputs, config = read(golden("stylegan3-t-tiny-excerpt.safetensors"))
    G = opened(config, weights)
    w = G.map(inputs["z"], psi=0.7)
    close(w, outputs["psi07.ws"])
    close(G.synthesis(w), outputs["psi07.img"])
