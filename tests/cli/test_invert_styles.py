"""`ganctl invert` in W and W+: it finds what is there, sample draws what it found, and noise maps travel with w."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.inversion import styles as inversion_styles
from ganctl.inversion.optimize import InvertConfig, normalize
from ganctl.inversion.styles import NOISE_WEIGHT, noise_penalty, project, start_maps, style_statistics
from ganctl.io.arrays import read_npz, write_npz
from ganctl.io.images import read_image, write_image
from ganctl.io.progress import Reporter
from ganctl.io.seeds import seed_class
from ganctl.load import load
from ganctl.nn.drawing import noise_maps, synthesize
from ganctl.workflows.interpolate import InterpolateRequest
from ganctl.workflows.interpolate import run as walk
from ganctl.workflows.invert import InvertRequest, run
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.conftest import Shell, Tiny

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of w, for its mean and deviation: the 10,000 of the paper take a second each time."""
    assert inversion_styles.SAMPLES == 10_000
    monkeypatch.setattr(inversion_styles, "SAMPLES", 500)


@pytest.fixture
def photos(styled: Tiny, tmp_path: Path) -> Path:
    """Two pictures of the network's own, and their latents beside them in `latents`."""
    made = SampleRequest(model=str(styled()), num=2, out=str(tmp_path / "made"), save_latents=True, device="cpu")
    (tmp_path / "photos").mkdir()
    for path in sample(made).paths:
        path.rename(tmp_path / "photos" / path.name)
    return tmp_path / "photos"


@pytest.fixture
def inversion(styled: Tiny, photos: Path, tmp_path: Path) -> InvertRequest:
    one = str(photos / "seed0000.png")
    return InvertRequest(model=str(styled()), inputs=(one,), out=str(tmp_path / "inv"), steps=60, device="cpu")


def told(request: InvertRequest) -> list[Mapping[str, Any]]:
    results: list[Mapping[str, Any]] = []
    run(request, Reporter(result=results.append))
    return results


def pixels(path: str | Path) -> np.ndarray:
    return read_image(Path(path).read_bytes(), name=str(path)).pixels


def back(request: InvertRequest, file: str, out: Path) -> np.ndarray:
    (path,) = sample(SampleRequest(model=request.model, latents=(file,), out=str(out), device="cpu")).paths
    return pixels(path)


def test_w_is_found_and_sample_and_interpolate_read_it(inversion: InvertRequest, photos: Path, tmp_path: Path) -> None:
    found = told(replace(inversion, inputs=(str(photos),), steps=60))
    assert [r["status"] for r in found] == ["written"] * 2 and all(r["psnr"] > 35 for r in found)
    arrays = read_npz(Path(found[0]["path"]))
    assert set(arrays) == {"w", "loss", "psnr", "model", "revision", "request"}
    # In W every layer has the same style.
    assert arrays["w"].shape == (6, 16) and (arrays["w"] == arrays["w"][:1]).all()
    for i, result in enumerate(found):
        assert (back(inversion, result["path"], tmp_path / str(i)) == pixels(result["picture"])).all()
    files = tuple(r["path"] for r in found)
    report = walk(
        InterpolateRequest(model=inversion.model, latents=files, frames=2, out=str(tmp_path / "w"), device="cpu")
    )
    assert (pixels(Path(report.path) / "frame00002.png") == pixels(found[1]["picture"])).all()
    assert [r["status"] for r in told(replace(inversion, inputs=(str(photos),), steps=60))] == ["exists"] * 2
    with pytest.raises(UsageError, match=r"space was 'w' and is now 'w\+'"):
        run(replace(inversion, inputs=(str(photos),), steps=60, space="w+"))


def test_w_plus_says_what_no_w_can(inversion: InvertRequest, styled: Tiny, tmp_path: Path) -> None:
    """A mixed picture lies in W+ and not in W."""
    mix = SampleRequest(
        model=inversion.model, rows="3", cols="8", styles="2-3", out=str(tmp_path / "mix.png"), device="cpu"
    )
    sheet = pixels(sample(mix).paths[0])

    write_image(tmp_path / "mixed.png", np.ascontiguousarray(sheet[-16:, -16:]))
    request = replace(inversion, inputs=(str(tmp_path / "mixed.png"),), steps=80)
    scores = {s: told(replace(request, space=s, out=str(tmp_path / s)))[0] for s in ("w", "w+")}
    assert scores["w+"]["psnr"] > scores["w"]["psnr"] + 2
    w = read_npz(Path(scores["w+"]["path"]))["w"]
    assert w.shape == (6, 16) and (w != w[:1]).any()
    assert (back(inversion, scores["w+"]["path"], tmp_path / "back") == pixels(scores["w+"]["picture"])).all()
    what = {"init": scores["w+"]["path"], "out": str(tmp_path / "i")}
    with pytest.raises(UsageError, match="cannot use --init") as e:
        run(replace(request, space="w", **what))
    assert "a style of its own for each layer" in e.value.why
    assert told(replace(request, space="w+", steps=1, **what))[0]["psnr"] > scores["w+"]["psnr"] - 3


def test_a_start_from_z_or_w(inversion: InvertRequest, tmp_path: Path) -> None:
    cold = told(replace(inversion, steps=1, out=str(tmp_path / "cold")))[0]["psnr"]
    arrays = read_npz(tmp_path / "made/seed0000.npz")
    for name in ("z", "w"):
        write_npz(tmp_path / f"{name}.npz", {name: arrays[name]})
        warm = replace(inversion, steps=20, init=str(tmp_path / f"{name}.npz"), out=str(tmp_path / name))
        assert told(warm)[0]["psnr"] > cold + 12


def test_noise_maps_travel_with_w(inversion: InvertRequest, styled: Tiny, tmp_path: Path) -> None:
    (found,) = told(replace(inversion, space="w+", noise=True, steps=15))
    arrays = read_npz(Path(found["path"]))
    maps = {name: value for name, value in arrays.items() if name.startswith("noise.")}
    known = noise_maps(load(inversion.model, device="cpu").net)
    assert {name.removeprefix("noise.") for name in maps} == set(known) and len(known) == 5
    for value in maps.values():
        assert abs(value.mean()) < 1e-4 and abs((value**2).mean() - 1) < 1e-3
    picture = pixels(found["picture"])
    assert (back(inversion, found["path"], tmp_path / "back") == picture).all()
    write_npz(tmp_path / "bare.npz", {"w": arrays["w"]})
    assert (back(inversion, str(tmp_path / "bare.npz"), tmp_path / "bare") != picture).any()
    write_npz(tmp_path / "odd.npz", {"w": arrays["w"], "noise.elsewhere": np.zeros((4, 4), np.float32)})
    with pytest.raises(UsageError, match="has no noise map 'elsewhere'"):
        back(inversion, str(tmp_path / "odd.npz"), tmp_path / "odd")


@pytest.mark.parametrize("conditional", [False, True])
def test_statistics_of_w(styled: Tiny, conditional: bool) -> None:
    net = load(str(styled(classes=10) if conditional else styled()), device="cpu").net
    c = torch.tensor([seed_class(s, 10) for s in range(1500)]) if conditional else None
    with torch.inference_mode():
        w = net.map(net.prior(range(1500)), c)[:, 0].double()
    found = style_statistics(net, CPU, 1500)
    torch.testing.assert_close(found.mean, w.mean(0).float())
    assert abs(found.deviation - w.var(0, correction=0).sum().sqrt().item()) < 1e-5 and found.layers == 6


def test_images_do_not_influence_each_other_and_a_seed_repeats(styled: Tiny) -> None:
    net = load(str(styled()), device="cpu").net
    statistics = style_statistics(net, CPU, 200)
    with torch.no_grad():
        x = net.sample(net.prior([3, 4]))
    cfg = InvertConfig(steps=10, seed=5)
    both = project(net, x, cfg, statistics, space="w+")
    assert torch.equal(project(net, x, cfg, statistics, space="w+").latent, both.latent)
    torch.testing.assert_close(
        project(net, x[1:], cfg, statistics, space="w+").latent, both.latent[1:], rtol=0, atol=1e-3
    )
    other = project(net, x, InvertConfig(steps=10, seed=6), statistics, space="w+")
    assert not torch.equal(other.latent, both.latent)
    with torch.no_grad():
        torch.testing.assert_close(net.synthesize(both.latent), both.x)
    # Without a step, the picture is the mean's, moved by the noise on w alone.
    start = project(net, x, InvertConfig(steps=1), statistics, space="w").latent
    assert (start - statistics.mean).norm(dim=2).max() < 0.05 * statistics.deviation * 4 * 2


def test_the_penalty_of_noise(styled: Tiny) -> None:
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(16, 16, generator=generator)
    right, down = (white * white.roll(1, 1)).mean(), (white * white.roll(1, 0)).mean()
    half = 2 * torch.nn.functional.avg_pool2d(white[None], 2)[0]
    halved = (half * half.roll(1, 1)).mean() ** 2 + (half * half.roll(1, 0)).mean() ** 2
    torch.testing.assert_close(noise_penalty({"a": white}), NOISE_WEIGHT * (right**2 + down**2 + halved))
    smooth = torch.linspace(-1, 1, 16).expand(16, 16).clone()
    normalize({"a": smooth})
    assert abs(smooth.mean()) < 1e-6 and abs(smooth.square().mean() - 1) < 1e-5
    assert noise_penalty({"a": smooth}) > 20 * noise_penalty({"a": white})
    net = load(str(styled()), device="cpu").net
    known = noise_maps(net)
    w = net.map(net.prior([0]))
    fresh = start_maps(known, 1)
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in known.items()}
    with torch.no_grad():
        assert torch.equal(synthesize(net, w, maps=known), net.synthesize(w))
        assert not torch.equal(synthesize(net, w, maps=fresh), net.synthesize(w))
    assert all(torch.equal(a, b) for a, b in zip(known.values(), noise_maps(net).values(), strict=True))


def test_what_does_not_go_is_refused(inversion: InvertRequest, styled: Tiny, lively: Tiny) -> None:
    with pytest.raises(UsageError, match=r"cannot use --noise\. it belongs to a search in w"):
        run(replace(inversion, noise=True, space="z"))
    with pytest.raises(UsageError, match="the picture of a z depends on its class, one of 10") as e:
        run(replace(inversion, model=str(styled(classes=10)), space="z"))
    assert e.value.hint == "pass --class, or --space w"
    for model, classes, said in (
        (styled(classes=10), "10", "class 10 out of range 0-9"),
        (styled(), "1", "not trained"),
    ):
        with pytest.raises(UsageError, match=said):
            run(replace(inversion, model=str(model), classes=classes))
    plain = str(lively("dcgan", resolution=16, channels=3, z_dim=8, ngf=4, ndf=4))
    with pytest.raises(UsageError, match=r"cannot use --space w\+"):
        run(replace(inversion, model=plain, space="w+"))
    with pytest.raises(UsageError, match="cannot use --noise") as e:
        run(replace(inversion, model=plain, noise=True))
    assert e.value.why.endswith("stores no noise maps")


@pytest.mark.parametrize("model", ["r3gan", "stylegan2"])
def test_the_class_of_a_conditional_model(model: str, styled: Tiny, lively: Tiny, tmp_path: Path) -> None:
    """z is found in its class and keeps it; w is searched from the class's own mean."""
    sizes = {"resolution": 8, "classes": 5}
    bundle = styled(**sizes) if model == "stylegan2" else lively(model, z_dim=8, width=16, **sizes)
    out = {"out": str(tmp_path / "made"), "save_latents": True, "device": "cpu"}
    (photo,) = sample(SampleRequest(model=str(bundle), seeds="3", classes="4", **out)).paths
    request = InvertRequest(model=str(bundle), inputs=(str(photo),), space="z", steps=40, device="cpu")
    found = {c: told(replace(request, classes=c, out=str(tmp_path / c)))[0] for c in ("4", "1")}
    assert found["4"]["class"] == 4 and found["4"]["psnr"] > found["1"]["psnr"] + 3
    arrays = read_npz(Path(found["4"]["path"]))
    assert arrays["class"] == 4 and arrays["z"].ndim == 1
    assert (back(request, found["4"]["path"], tmp_path / "back") == pixels(found["4"]["picture"])).all()
    # The class of the file it starts from does as well.
    warm = replace(request, init=str(photo.with_suffix(".npz")), out=str(tmp_path / "warm"), steps=1)
    assert told(warm)[0]["class"] == 4 and told(replace(warm, overwrite=True, steps=2))[0]["psnr"] > 45
    write_npz(tmp_path / "bare.npz", {"z": arrays["z"]})
    with pytest.raises(UsageError, match="depends on its class") as e:
        run(replace(warm, init=str(tmp_path / "bare.npz"), out=str(tmp_path / "bare")))
    assert e.value.hint == "pass --class"
    if model == "stylegan2":
        net = load(str(bundle), device="cpu").net
        with torch.no_grad():
            w = net.map(net.prior(range(300)), torch.full((300,), 4))[:, 0].double()
        torch.testing.assert_close(style_statistics(net, CPU, 300, 4).mean, w.mean(0).float())
        (own,) = told(replace(request, space="w", classes="4", out=str(tmp_path / "w")))
        assert own["class"] == 4 and "class" not in read_npz(Path(own["path"]))


def test_z_is_searched_where_it_is_asked_for(inversion: InvertRequest) -> None:
    (found,) = told(replace(inversion, space="z", steps=20))
    assert read_npz(Path(found["path"]))["z"].shape == (16,) and found["psnr"] > 20


def test_the_command_line(ganctl: Shell, styled: Tiny, photos: Path) -> None:
    command = ("invert", styled(), photos / "seed0000.png", "--space", "w+", "--noise", "--class", "3", "--dry-run")
    assert {"space: w+", "noise: true", "classes: '3'"} <= set(ganctl.ok(*command).lines)
