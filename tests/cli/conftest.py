"""Networks whose pictures differ, for tests that compare them."""

from pathlib import Path

import pytest

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
