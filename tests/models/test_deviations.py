"""docs/deviations.md is what the `Deviation:` marks in ganctl/models say, and shapes are really checked under test."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from ganctl.models import dcgan
from tests.conftest import ROOT


def test_the_page_is_fresh_and_has_every_mark() -> None:
    script = ROOT / "scripts" / "deviations.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, encoding="utf-8", check=True)
    page = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
    assert done.stdout == page, "run: python scripts/deviations.py > docs/deviations.md"
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "ganctl" / "models").glob("[a-z]*.py")]
    assert page.count("\n- `") == sum(text.count("Deviation:") for text in sources) > 10
    assert page.count("\n## ") == len(sources)


def test_wrong_shapes_are_noticed_under_test() -> None:
    nets = dcgan.build(dcgan.Config(resolution=16, channels=1, z_dim=5, ngf=4, ndf=4))
    with pytest.raises(TypeCheckError):
        nets.G(torch.zeros(2, 5, 1, 1))
    with pytest.raises(TypeCheckError):
        nets.D(torch.zeros(2, 16, 16))
