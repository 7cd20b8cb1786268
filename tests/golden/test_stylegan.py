"""StyleGAN against numbers recorded from two published code bases, read through `from_upstream`.

The small files that travel with the tests were recorded as the others were: GenForce's own network (tiny), OpenMMLab's,
and pytorch_GAN_zoo's (its noise given as `in.noise<layer>`), filled at random.
"""

import json

import pytest
import torch
from safetensors import safe_open

from ganctl.config import parse
from ganctl.io.tensors import load_into
from ganctl.models import progan, stylegan
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream


@pytest.mark.parametrize(
    "name, fused_from", [("stylegan1-g-r32", 128), ("stylegan1-g-fused-r16", 4), ("stylegan1-g-tiny-r16", 4)]
)
@torch.no_grad()
def test_generator(name: str, fused_from: int) -> None:
    """Every call: depth, truncation, cutoff; upsampling by nearest neighbours and by transposed convolutions."""
    path = golden(f"{name}.safetensors")
    weights, inputs, outputs, config = read(path)
    with safe_open(path, "pt") as f:
        calls = json.loads(f.metadata()["calls"])
    G = upstream(stylegan, weights, "G", fused_from=fused_from)
    assert (G.z_dim, G.mapping.depth, G.x.size[0]) == tuple(
        config[k] for k in ("z_space_dim", "mapping_layers", "resolution")
    )
    assert len(calls) in (2, 3, 4)
    for call, given in calls.items():
        w = G.map(inputs["z"], psi=given.get("trunc_psi", 1.0), cutoff=given.get("trunc_layers"))
        close(w, outputs[f"{call}.wp"])
        close(G.map(inputs["z"])[:, 0], outputs[f"{call}.w"])
        close(G.synthesis(w, given["lod"]), outputs[f"{call}.img"])
        # The same from the buffer, which a bundle keeps.
        G.synthesis.lod.fill_(given["lod"])
        close(G.synthesis(w), outputs[f"{call}.img"])
        assert torch.equal(G.synthesize(w), G.synthesis(w).clamp(-1, 1))


@torch.no_grad()
def test_the_two_ways_of_upsampling_are_one_with_kernels_turned() -> None:
    g = torch.Generator().manual_seed(2)
    x, weight = torch.randn(2, 5, 6, 6, generator=g), torch.randn(4, 5, 3, 3, generator=g)
    close(stylegan.upsampled(x, weight, True), stylegan.upsampled(x, weight.flip(2, 3), False), 1e-5)


@torch.no_grad()
def test_discriminator() -> None:
    weights, inputs, outputs, _ = read(golden("stylegan1-d-r32.safetensors"))
    assert progan.from_upstream(weights) is None, "its filters tell it from ProGAN's"
    D = upstream(stylegan, weights, "D")
    for call, lod in (("lod0", 0.0), ("lod035", 0.35), ("lod160", 1.6)):
        logits = outputs[f"{call}.logits"].squeeze(1)
        close(D(inputs["img"], lod), logits)
        close(D(inputs["img"], lod), logits, 1e-3 * float(logits.abs().max()))


@torch.no_grad()
def test_generator_of_pytorch_gan_zoo() -> None:
    """No filters, styles without the 1, one strength a map; the network it names has truncation 0.7 built in."""
    weights, inputs, outputs, config = read(golden("stylegan1-zoo-g-r16.safetensors"))
    found = stylegan.from_upstream(weights)
    assert found is not None
    G = stylegan.build(parse(stylegan.Config, found[0], where="golden")).G
    load_into(G, found[1]["G"], where="golden")
    noise = iter([inputs[f"noise{i}"] for i in range(6)])
    img = G.synthesis(G.map(inputs["z"], psi=config["phiTruncation"]), noise=lambda *shape: next(noise))
    close(img, outputs["psi07.img"])


@torch.no_grad()
def test_generator_of_openmmlab() -> None:
    """Recorded from OpenMMLab's own network with narrow layers; colours come in the order of the file."""
    weights, inputs, outputs, config = read(golden("stylegan1-openmmlab-g-r16.safetensors"))
    G = upstream(stylegan, weights, "G")
    assert (G.z_dim, G.x.size[0], G.mapping.depth) == (8, config["out_size"], config["num_mlps"])
    w = G.map(inputs["z"])
    close(G.synthesis(w), outputs["full.img"])
    close(G.synthesis(w, 0.7), outputs["fade03.img"])
    # The file holds no mean of w: the program draws 4096 z and takes theirs. Recorded was a mean that was given.
    assert (G.mapping(torch.randn(20000, 8)).mean(0) - G.mapping.w_avg).abs().max() < 0.1 * w.std()
    G.mapping.w_avg.copy_(inputs["truncation_latent"][0])
    close(G.synthesis(G.map(inputs["z"], psi=0.6)), outputs["psi06.img"])
