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


def test_a_swept_code_moves_alone_over_the_columns(tiny: Tiny, tmp_path: Path) -> None:
    model = str(tiny("infogan", resolution=16, ngf=4, ndf=4, noise_dim=3, units=8, categories=4))
    sweep = SampleRequest(model=model, classes="1,3", seeds="5,6", sweep=2, grid="3x4", out=str(tmp_path), device="cpu")
    results = told(sweep)
    names = [Path(r["path"]).name for r in results]
    assert names[:4] == [f"seed0005-class000{c}-code2-{i:02d}.png" for c, i in ((1, 0), (1, 1), (1, 2), (3, 0))]
    assert len(names) == 13 and names[-1] == "grid.png"
    net = load(model, device="cpu").net
    z = net.prior([6]).repeat(3, 1)
    z[:, -1] = torch.tensor([-2.0, 0.0, 2.0])
    with torch.inference_mode():
        x = torch.cat([net.sample(row[None], torch.tensor([3])) for row in z])
    assert all(same(a, b) for a, b in zip(to_pixels(x, net.x.range), drawn(sweep)[9:12], strict=True))
    assert {r["status"] for r in told(sweep)} == {"exists"}
    for options, said in (({"sweep": 3}, "has 2 of them"), ({"latents": ("x.npz",), "seeds": None}, "begins at seeds")):
        with pytest.raises(UsageError, match=said):
            run(replace(sweep, **options))
    with pytest.raises(UsageError, match="has no codes"):
        run(
            replace(sweep, model=str(tiny("gan", resolution=16, g_hidden=(8,), d_hidden=(8,))), classes=None, grid=None)
        )
