"""`ganctl fid` of style-based and conditional models: --trunc and --class, in the images, the stamp and the caches."""

from pathlib import Path

import pytest
import torch

from ganctl.load import load
from ganctl.metrics.equivariance import KINDS, sampler_equivariance
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.cli.fid_tools import fid, pictures, pixels
from tests.conftest import Tiny

GREY = {"channels": 1, "resolution": 32, "channel_base": 256}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))


def test_a_truncated_models_score_is_that_of_its_pictures(styled: Tiny, tmp_path: Path) -> None:
    real, model = pictures(tmp_path / "real", pixels(12, 0)), styled(**GREY)
    folder = tmp_path / "fake"
    sample(SampleRequest(model=str(model), num=12, trunc=0.4, out=str(folder), device="cpu"))
    whole, cut = fid(real, model, num=12), fid(real, model, num=12, trunc=0.4)
    # A batch rounds otherwise than a picture alone, by a level of some pixels.
    assert cut.value == pytest.approx(fid(real, folder).value, rel=2e-3) != pytest.approx(whole.value, rel=2e-2)
    assert cut.stamp["trunc"] == 0.4 and "trunc" not in whole.stamp and "class" not in cut.stamp
    # Nothing that was remembered of one is taken for the other.
    assert fid(model, real, num=12).value == pytest.approx(whole.value)
    assert fid(model, real, num=12, trunc=0.4).value == pytest.approx(cut.value)


def test_a_classs_score_is_that_of_its_pictures(styled: Tiny, tmp_path: Path) -> None:
    real, model = pictures(tmp_path / "real", pixels(12, 0)), styled(classes=10, **GREY)
    folder = tmp_path / "fake"
    sample(SampleRequest(model=str(model), num=12, classes="3", out=str(folder), device="cpu"))
    three, every = fid(real, model, num=12, classes="3"), fid(real, model, num=12)
    assert three.value == pytest.approx(fid(real, folder).value, rel=2e-3) != pytest.approx(every.value, rel=2e-2)
    assert three.stamp["class"] == "3"
    assert fid(real, model, num=12, classes="all").value == pytest.approx(every.value)
    saved = fid(model, num=12, classes="3", save_stats=str(tmp_path / "s.npz"))
    assert saved.results[-1]["status"] == "written"
    other = fid(model, num=12, classes="4", save_stats=str(tmp_path / "s.npz")).error
    assert other is not None and "class was '3' and is now '4'" in other.message
    page = fid(real, model, num=12, classes="3", report=str(tmp_path / "page.html"))
    assert page.error is None and "--class" in (tmp_path / "page.html").read_text()


def test_equivariance_of_a_model_needs_no_other_side(styled: Tiny, tiny: Tiny, tmp_path: Path) -> None:
    small = {"channels": 1, "num_layers": 4, "num_critical": 1, "mapping_layers": 2}
    model = tiny("stylegan3", resolution=16, channel_base=64, channel_max=8, **small)
    page = tmp_path / "page.html"
    found = fid(model, metrics="eqr,eqt,eqt_frac", num=5, seed=3, report=str(page))
    net = load(str(model), device="cpu").net
    wanted = sampler_equivariance(net, kinds=KINDS, n=5, seed=3, device=torch.device("cpu"))
    assert [r["metric"] for r in found.results if "metric" in r] == ["eqr", "eqt", "eqt_frac"]
    assert [r[r["metric"]] for r in found.results[:3]] == [wanted["eqr"], wanted["eqt_int"], wanted["eqt_frac"]]
    stamp = found.results[0]
    assert (stamp["unit"], stamp["n_fake"], stamp["seed"], stamp["fake"]) == ("dB", 5, 3, str(model))
    assert found.notes[0] == "eqr, 5 images in groups of 4, turned by up to 180 degrees, dB"
    assert "the paper&#x27;s R has 40" in page.read_text()
    real = pictures(tmp_path / "real", pixels(4, 0))
    for sides, metrics, said in (
        ((styled(**GREY),), "eqt", "only a stylegan3 can move the plane of its pictures"),
        ((real,), "eqt", "it asks a generator, not images"),
        ((model,), "eqt50k_int", "that id fixes a protocol of training"),
        ((tiny("stylegan3", resolution=8, channel_base=64, channel_max=8, **small),), "eqr", "pictures are too small"),
    ):
        error = fid(*sides, metrics=metrics, num=4).error
        assert error is not None and error.code == 2 and said in error.message, error


def test_what_does_not_go_is_refused(styled: Tiny, lively: Tiny, tmp_path: Path) -> None:
    real = pictures(tmp_path / "real", pixels(4, 0))
    plain = lively("dcgan", resolution=16, channels=1, z_dim=8, ngf=4, ndf=4)
    for sides, options, said in (
        ((real, real), {"trunc": 0.5}, "cannot use --trunc. it is about the images a model draws"),
        ((real, plain), {"trunc": 0.5}, "which has no latent space W"),
        ((real, plain), {"classes": "1"}, "was not trained on classes"),
        ((real, styled(classes=10, **GREY)), {"classes": "10"}, "class 10 out of range 0-9"),
        ((real, styled(**GREY)), {"trunc": float("nan")}, "cannot use --trunc nan"),
        ((plain,), {"trunc": 0.5, "metrics": "ppl_zend"}, "cannot use --trunc with --metrics ppl_zend"),
    ):
        error = fid(*sides, num=None if sides == (real, real) else 4, **options).error
        assert error is not None and error.code == 2 and said in error.message
