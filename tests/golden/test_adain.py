"""AdaIN against numbers recorded from naoto0804/pytorch-AdaIN."""

import torch

from ganctl.config import parse
from ganctl.models import adain
from tests.conftest import golden
from tests.golden.test_networks import close, read


def network(weights: dict[str, torch.Tensor]) -> adain.Generator:
    """Its two files made one network, as convert does it."""
    cfg, tensors = {}, {}
    for part in ("vgg.", "decoder."):
        found = adain.from_upstream({k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)})
        assert found is not None
        cfg |= found[0]
        tensors |= found[1]["G"]
    G = adain.build(parse(adain.Config, cfg, where="the file")).G.eval()
    G.load_state_dict(tensors)
    return G


@torch.no_grad()
def test_style_transfer() -> None:
    weights, inputs, outputs, config = read(golden("adain_style_transfer.safetensors"))
    G = network(weights)
    content, style = inputs["content"], inputs["style"]
    close(G.features(content)[-1], outputs["relu4_1.content"])
    close(G.features(style)[-1], outputs["relu4_1.style"])
    code, own = (G.encode_style(2 * x - 1) for x in (style, content))
    for name, weight in (("stylised", 1.0), ("stylised_alpha", config["alpha"])):
        # Where no value is cut off, the picture is the decoder's.
        made = G.decoder(adain.adain(G.encoder(content), weight * code + (1 - weight) * own))
        close(made, outputs[name])
        found = G.translate(2 * content - 1, style=weight * code + (1 - weight) * own)
        close((found + 1) / 2, outputs[name].clamp(0, 1))


@torch.no_grad()
def test_adaptive_instance_normalisation() -> None:
    _, inputs, outputs, _ = read(golden("adain_style_transfer.safetensors"))
    mean, std = adain.statistics(inputs["style_features"]).unbind(1)
    close(mean[..., None, None], outputs["features.mean"])
    close(std[..., None, None], outputs["features.std"])
    made = adain.adain(inputs["content_features"], adain.statistics(inputs["style_features"]))
    close(made, outputs["features.adain"])
