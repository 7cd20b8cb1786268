"""ProGAN against numbers recorded from the two published code bases, read through `from_upstream` into one network."""

import pytest
import torch

from ganctl.models import progan
from tests.conftest import golden
from tests.golden.test_networks import close, read, upstream

GENFORCE = [("lod0", 0.0), ("lod035", 0.35), ("lod160", 1.6)]
ZOO = [("alpha000", 0.0), ("alpha035", 0.35), ("alpha100", 1.0)]
"""pytorch_GAN_zoo's alpha weighs the lower resolution, as the fraction of a lod does; 1 is one octave below."""


@pytest.mark.parametrize("source, calls", [("genforce", GENFORCE), ("zoo", ZOO)])
@torch.no_grad()
def test_generator(source: str, calls: list[tuple[str, float]]) -> None:
    weights, inputs, outputs, _ = read(golden(f"progan-{source}-g-r32.safetensors"))
    G = upstream(progan, weights, "G")
    assert (G.z_dim, G.x.size) == (24, (32, 32))
    for call, lod in calls:
        close(G(inputs["z"], lod), outputs[f"{call}.img"])
        # The same from the buffer, which a bundle keeps.
        G.lod.fill_(lod)
        close(G(inputs["z"]), outputs[f"{call}.img"])
        assert torch.equal(G.sample(inputs["z"]), G(inputs["z"]).clamp(-1, 1))


@pytest.mark.parametrize("source, calls", [("genforce", GENFORCE), ("zoo", ZOO)])
@torch.no_grad()
def test_discriminator(source: str, calls: list[tuple[str, float]]) -> None:
    weights, inputs, outputs, _ = read(golden(f"progan-{source}-d-r32.safetensors"))
    D = upstream(progan, weights, "D")
    for call, lod in calls:
        logits = outputs[f"{call}.logits"].squeeze(1)
        close(D(inputs["img"], lod), logits)
        close(D(inputs["img"], lod), logits, 1e-3 * float(logits.abs().max()))
        D.lod.fill_(lod)
        close(D(inputs["img"]), logits)


@torch.no_grad()
def test_openmmlabs_generator() -> None:
    """Recorded as the other files were, from OpenMMLab's own network; its pictures are blue first."""
    weights, inputs, outputs, config = read(golden("progan-openmmlab-g-r16.safetensors"))
    G = upstream(progan, weights, "G")
    assert (G.z_dim, G.x.size[0]) == (config["noise_size"], config["out_scale"])
    close(G(inputs["z"]), outputs["full.img"].flip(1))
    # Its weight is that of the new resolution.
    close(G(inputs["z"], 0.7), outputs["fade03.img"].flip(1))
