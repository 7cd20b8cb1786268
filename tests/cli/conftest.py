"""Networks whose pictures differ, for tests that compare them."""

from pathlib import Path

import pytest
import torch

from ganctl.io.bundle import read_bundle, write_bundle
from tests.conftest import Tiny


@pytest.fixture(scope="session")
def lively(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """`tiny` with larger weights: untrained ones are so small that every picture is a nearly even grey."""
    made: dict[Path, Path] = {}

    def make(model: str, **config: object) -> Path:
        source = tiny(model, **config)
        if source not in made:
            bundle = read_bundle(source)
            states = {
                net: {k: v * 12 if v.is_floating_point() and v.ndim > 1 else v for k, v in bundle.state(net).items()}
                for net in bundle.nets
            }
            path = tmp_path_factory.mktemp("lively") / source.name
            write_bundle(path, model=bundle.model, config=bundle.config, states=states, card=bundle.card)
            made[source] = path
        return made[source]

    return make


@pytest.fixture(scope="session")
def styled(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny StyleGAN2 as training leaves one: noise that shows, a mean of w, channels that differ."""
    made: dict[Path, Path] = {}
    small = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "mapping_lr": 1.0, "channel_base": 128, "channel_max": 8}

    def make(model: str = "stylegan2", **config: object) -> Path:
        source = tiny(model, **{"resolution": 16, **small, **config})
        if source not in made:
            bundle = read_bundle(source)
            states = {net: bundle.state(net) for net in bundle.nets}
            for state in states.values():
                for name, value in state.items():
                    if name.endswith("noise_strength"):
                        value.fill_(0.2)
                    elif name.endswith("w_avg"):
                        value.copy_(torch.linspace(-0.3, 0.3, len(value)))
            path = tmp_path_factory.mktemp("styled") / source.name
            write_bundle(path, model=bundle.model, config=bundle.config, states=states, card=bundle.card)
            made[source] = path
        return made[source]

    return make
