"""MMEditing's MSRResNet and RRDBNet: a network built as its modules are, read and compared by what it draws."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganctl.config import parse
from ganctl.errors import UsageError
from ganctl.io.tensors import load_into
from ganctl.models import esrgan, srgan
from ganctl.protocols import Translator
from ganctl.published.container import networks_in


class Pack(nn.Module):
    """PixelShufflePack."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.upsample_conv = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.upsample_conv(x), 2)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class MSRResNet(nn.Module):
    def __init__(self, scale: int, width: int = 4, blocks: int = 11) -> None:
        super().__init__()
        self.scale, self.conv_first = scale, nn.Conv2d(3, width, 3, padding=1)
        self.trunk_net = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.upsample1 = Pack(width)
        if scale == 4:
            self.upsample2 = Pack(width)
        self.conv_hr, self.conv_last = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.upsample1(self.trunk_net(F.leaky_relu(self.conv_first(x), 0.1)))
        y = self.upsample2(y) if self.scale == 4 else y
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.1))
        return y + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


def checkpoint(net: nn.Module) -> dict[str, object]:
    """As it is published: VGG and an iteration beside the generator; RGB whatever the file's name."""
    state = {f"generator.{k}": t for k, t in net.state_dict().items()}
    extra = {"perceptual_loss.vgg.vgg_layers.0.weight": torch.zeros(2, 3, 3, 3), "step_counter": torch.tensor(5)}
    return {"meta": {}, "state_dict": {**state, **extra}}


@pytest.mark.parametrize("scale", [2, 4])
@torch.no_grad()
def test_msrresnet(scale: int) -> None:
    torch.manual_seed(scale)
    net = MSRResNet(scale)
    config, states = srgan.from_upstream(dict(networks_in(checkpoint(net)))["state_dict.generator"])  # type: ignore[misc]
    assert config == {"network": "modified", "channels": 3, "width": 4, "num_blocks": 11, "scale": scale}
    G = srgan.build(parse(srgan.Config, config, where="test")).G
    load_into(G, states["G"], where="test")
    assert isinstance(G, Translator) and G.halo == 25
    x = torch.rand(1, 3, 9, 14)
    assert torch.allclose(G(x), net(x), atol=1e-6)
    assert torch.allclose(G.translate(2 * x - 1), 2 * net(x) - 1, atol=1e-5)
    # What lies beyond the halo changes nothing.
    wide = torch.rand(1, 3, 3, 60)
    other = wide.clone()
    other[..., 40:] = 0.5
    assert torch.equal(G(wide)[..., : (40 - G.halo) * scale], G(other)[..., : (40 - G.halo) * scale])


def test_what_the_modified_network_cannot_be() -> None:
    assert srgan.from_upstream({k: t for k, t in MSRResNet(4).state_dict().items() if "upsample1" not in k}) is None
    with pytest.raises(UsageError, match="scale 8"):
        srgan.build(srgan.Config(network="modified", scale=8))


def test_rrdbnet_is_found_inside() -> None:
    cfg = parse(esrgan.Config, {"width": 8, "num_blocks": 2, "growth": 4, "resolution": 128, "ndf": 2}, where="test")
    G = esrgan.build(cfg).G
    held = dict(networks_in(checkpoint(G)))["state_dict.generator"]
    config, states = esrgan.from_upstream(held)  # type: ignore[misc]
    assert (config["width"], config["num_blocks"], config["scale"]) == (8, 2, 4)
    assert all(torch.equal(t, states["G"][k]) for k, t in G.state_dict().items())
