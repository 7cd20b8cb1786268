"""`ganctl sample` of models that truncate their noise: BigGAN's and BigGAN-deep's --trunc and --class."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.images import request_of, to_pixels
from ganctl.load import load
from ganctl.workflows.sample import SampleRequest, run
from tests.cli.test_sample_styles import drawn, same, told
from tests.conftest import Tiny

TINY = {"resolution": 16, "ngf": 4, "ndf": 4, "z_dim": 6, "shared_dim": 4, "classes": 3}


@pytest.fixture(params=["biggan", "biggan_deep"])
def classes(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> SampleRequest:
    more = {"statistics": 3, "spectral": False} if request.param == "biggan_deep" else {}
    return SampleRequest(model=str(tiny(request.param, **TINY, **more)), out=str(tmp_path / "out"), device="cpu")


def test_trunc_narrows_the_noise_and_is_recorded(classes: SampleRequest, tmp_path: Path) -> None:
    net = load(classes.model, device="cpu").net
    with torch.inference_mode():
        z = net.truncated(net.prior([5]), 0.4)
        y = net.shared(torch.tensor([2]))
        x = net(z, y, 0.4) if "deep" in classes.model else net(z, y)
    assert z.abs().max() <= 0.8
    cut = replace(classes, seeds="5", classes="2", trunc=0.4)
    assert same(drawn(cut)[0], to_pixels(x, net.x.range)[0])
    (found,) = told(cut)
    assert (found["status"], found["trunc"], found["class"]) == ("exists", 0.4, 2)
    assert request_of(Path(found["path"]))["trunc"] == 0.4  # type: ignore[index]
    plain, one = (drawn(replace(cut, trunc=t, out=str(tmp_path / str(t))))[0] for t in (None, 1.0))
    assert same(plain, one)
    centre = [drawn(replace(cut, trunc=0.0, seeds=s, out=str(tmp_path / s)))[0] for s in ("1", "2")]
    assert same(*centre)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trunc": 1.5}, r"cannot use --trunc 1\.5"),
        ({"trunc": -0.5}, r"cannot use --trunc -0\.5"),
        ({"trunc": 0.5, "trunc_cutoff": 2}, "no latent space W"),
        ({"classes": "3"}, "class 3 out of range 0-2"),
    ],
)
def test_what_such_models_cannot_do_is_refused(classes: SampleRequest, options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){said}"):
        run(replace(classes, **options))
