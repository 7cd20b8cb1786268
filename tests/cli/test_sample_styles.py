"""`ganctl sample` of style-based and conditional models: classes, truncation, noise, mixing sheets, latents in W."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.arrays import read_npz, write_npz
from ganctl.io.bundle import read_bundle, write_bundle
from ganctl.io.images import read_image, request_of, to_pixels
from ganctl.io.progress import Reporter
from ganctl.io.seeds import seed_class
from ganctl.load import load
from ganctl.models.stylegan3 import transformed
from ganctl.nn import precision
from ganctl.workflows.sample import SampleRequest, resolve, run
from tests.cli.test_sample import imported
from tests.conftest import Shell, Tiny

LAYERS = 6
STYLEGAN3 = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 4}


@pytest.fixture
def style(styled: Tiny, tmp_path: Path) -> SampleRequest:
    return SampleRequest(model=str(styled()), out=str(tmp_path / "out"), device="cpu")


@pytest.fixture
def classes(styled: Tiny, tmp_path: Path) -> SampleRequest:
    return SampleRequest(model=str(styled(classes=10)), out=str(tmp_path / "out"), device="cpu")


def told(request: SampleRequest) -> list[Mapping[str, Any]]:
    results: list[Mapping[str, Any]] = []
    run(request, Reporter(result=results.append))
    return results


def drawn(request: SampleRequest) -> list[np.ndarray]:
    return [pixels(r["path"]) for r in told(request)]


def pixels(path: str | Path) -> np.ndarray:
    return read_image(Path(path).read_bytes(), name=str(path)).pixels


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def net_pixels(net: Any, w: torch.Tensor, noise: Any = "const") -> np.ndarray:
    with torch.inference_mode():
        return to_pixels(net.synthesize(w, noise=noise), net.x.range)[0]


def test_pictures_are_those_of_the_network(style: SampleRequest, tmp_path: Path) -> None:
    net = load(style.model, device="cpu").net
    z = torch.from_numpy(np.random.RandomState(85).randn(1, 16).astype(np.float32))
    with torch.inference_mode():
        full, short = net.map(z), net.map(z, psi=0.4, cutoff=2)
    (picture,) = drawn(replace(style, seeds="85"))
    assert same(picture, net_pixels(net, full))
    (cut,) = drawn(replace(style, seeds="85", trunc=0.4, trunc_cutoff=2, out=str(tmp_path / "cut")))
    assert same(cut, net_pixels(net, short)) and not same(cut, picture)
    # At 0 every seed is the mean picture.
    a, b = drawn(replace(style, num=2, trunc=0.0, out=str(tmp_path / "mean")))
    mean = net.mapping.w_avg.expand(1, LAYERS, -1)
    assert same(a, b) and same(a, net_pixels(net, mean))
    (none,) = drawn(replace(style, seeds="85", noise_mode="none", out=str(tmp_path / "none")))
    assert same(none, net_pixels(net, full, "none")) and not same(none, picture)


def test_random_noise_is_the_seeds_whatever_the_batch(style: SampleRequest, tmp_path: Path) -> None:
    four = drawn(replace(style, num=4, noise_mode="random"))
    (alone,) = drawn(replace(style, seed=2, noise_mode="random", out=str(tmp_path / "one")))
    assert same(four[2], alone) and not same(alone, drawn(replace(style, seed=2, out=str(tmp_path / "c")))[0])
    net = load(style.model, device="cpu").net
    with torch.inference_mode():
        w = net.map(net.prior(range(4)))
        together = net.synthesize(w, noise=[torch.Generator().manual_seed(s) for s in range(4)])
    # Computed together, as on a GPU: the same to rounding.
    assert np.abs(to_pixels(together, net.x.range).astype(int) - np.stack(four)).max() <= 1


@pytest.mark.parametrize("mode", ["const", "random"])
def test_noise_in_some_layers(style: SampleRequest, tmp_path: Path, mode: Any) -> None:
    request = replace(style, seed=7, noise_mode=mode)
    whole, some = drawn(request)[0], replace(request, noise_layers="0,2-3", out=str(tmp_path / "some"))
    net = load(style.model, device="cpu").net
    strengths = [p for name, p in net.named_parameters() if name.endswith("noise_strength")]
    assert len(strengths) == 5
    for layer in (1, 4):
        strengths[layer].fill_(0)
    noise = mode if mode == "const" else [torch.Generator().manual_seed(7)]
    with torch.inference_mode():
        wanted = net_pixels(net, net.map(net.prior([7])), noise)
    assert same(drawn(some)[0], wanted) and not same(wanted, whole)
    assert told(some)[0]["status"] == "exists"
    with pytest.raises(UsageError, match="noise_layers was '0,2-3' and is now '0-4'"):
        run(replace(some, noise_layers="0-4"))
    every = replace(request, noise_layers="0-4", out=str(tmp_path / "every"))
    assert same(drawn(every)[0], whole)


def test_trunc_is_the_cards_where_none_is_given(style: SampleRequest, tmp_path: Path) -> None:
    bundle = read_bundle(Path(style.model))
    card = {**bundle.card, "trunc": 0.5}
    states = {net: bundle.state(net) for net in bundle.nets}
    write_bundle(tmp_path / "carded", model=bundle.model, config=bundle.config, states=states, card=card)
    carded = replace(style, model=str(tmp_path / "carded"))
    (found,) = told(carded)
    assert found["trunc"] == 0.5 and request_of(Path(found["path"]))["trunc"] == 0.5  # type: ignore[index]
    given = replace(style, trunc=0.5, out=str(tmp_path / "given"))
    assert same(pixels(found["path"]), drawn(given)[0])
    assert told(carded)[0]["status"] == "exists" and told(replace(carded, trunc=0.5))[0]["status"] == "exists"
    with pytest.raises(UsageError, match=r"trunc was '0\.5' and is now '1\.0'"):
        run(replace(carded, trunc=1.0))


def test_a_seed_draws_its_class_and_each_class_has_its_picture(classes: SampleRequest, tmp_path: Path) -> None:
    found = told(replace(classes, num=8))
    wanted = [seed_class(s, 10) for s in range(8)]
    assert [r["class"] for r in found] == wanted and len(set(wanted)) > 3
    assert [Path(r["path"]).name for r in found] == [f"seed{s:04d}-class{c:04d}.png" for s, c in enumerate(wanted)]
    assert {r["status"] for r in told(replace(classes, num=8))} == {"exists"}
    given = told(replace(classes, num=2, classes="7, 0-2", grid="4x2", out=str(tmp_path / "some")))
    assert [(r.get("seed"), r.get("class")) for r in given] == [
        *((s, c) for s in (0, 1) for c in (7, 0, 1, 2)),
        (None, None),
    ]
    pictures = [pixels(r["path"]) for r in given]
    assert len({p.tobytes() for p in pictures}) == 9
    # A row of the sheet is a seed.
    assert same(pictures[-1][:16, :16], pictures[0]) and same(pictures[-1][-16:, -16:], pictures[7])
    (one,) = told(replace(classes, seed=1, classes="2", out=str(tmp_path / "x.png")))
    assert same(pixels(one["path"]), pictures[7]) and request_of(tmp_path / "x.png")["class"] == 2  # type: ignore[index]
    assert len(told(replace(classes, classes="all", out=str(tmp_path / "all")))) == 10
    zipped = replace(classes, classes="all", num=2, out=str(tmp_path / "all.zip"))
    assert told(zipped)[0]["num"] == 20 and told(zipped)[0]["status"] == "exists"
    with pytest.raises(UsageError, match="refused to overwrite"):
        run(replace(zipped, classes="0-9"))


def test_a_mixing_sheet(style: SampleRequest, tmp_path: Path) -> None:
    sheet = replace(style, rows="4,9", cols="1-3", styles="1,3-4", trunc=0.7, out=str(tmp_path / "mix"))
    (found,) = told(sheet)
    assert found["path"] == str(tmp_path / "mix/mix.png")
    assert (found["rows"], found["cols"], found["styles"], found["trunc"]) == ("4,9", "1-3", "1,3-4", 0.7)
    picture = pixels(found["path"])
    gap = (picture.shape[1] - 4 * 16) // 3
    assert picture.shape == (3 * 16 + 2 * gap, 4 * 16 + 3 * gap, 3)
    cell = {
        (i, j): picture[i * (16 + gap) : i * (16 + gap) + 16, j * (16 + gap) : j * (16 + gap) + 16]
        for i in range(3)
        for j in range(4)
    }
    sources = drawn(replace(style, seeds="4,9,1-3", trunc=0.7))
    assert (cell[0, 0] == 255).all()
    assert same(cell[1, 0], sources[0]) and same(cell[2, 0], sources[1])
    assert all(same(cell[0, j], sources[j + 1]) for j in (1, 2, 3))
    net = load(style.model, device="cpu").net
    with torch.no_grad():
        w = net.map(net.prior([9, 2]), psi=0.7).clone()
    w[0, [1, 3, 4]] = w[1, [1, 3, 4]]
    assert same(cell[2, 2], net_pixels(net, w[:1]))
    assert told(sheet)[0]["status"] == "exists"
    with pytest.raises(UsageError, match="styles was '1,3-4' and is now '0-2'"):
        run(replace(sheet, styles=None))
    stream = io.BytesIO()
    run(replace(sheet, out="-"), stdout=stream)
    assert stream.getvalue() == Path(found["path"]).read_bytes()
    every = told(replace(sheet, styles="0-5", out=str(tmp_path / "all.png")))[0]
    assert same(pixels(every["path"])[16 + gap : 32 + gap, 16 + gap : 32 + gap], sources[2])


def test_latents_in_w_bring_their_class_and_truncation(classes: SampleRequest, tmp_path: Path) -> None:
    saved = replace(classes, num=2, trunc=0.6, save_latents=True)
    first = told(saved)
    files = [Path(r["path"]).with_suffix(".npz") for r in first]
    arrays = read_npz(files[0])
    assert set(arrays) == {"z", "w", "class", "model", "revision", "request"}
    assert arrays["z"].shape == (1, 16) and arrays["w"].shape == (1, LAYERS, 16)
    assert int(arrays["class"]) == first[0]["class"]
    back = replace(classes, latents=tuple(map(str, files)), out=str(tmp_path / "back"))
    again = told(back)
    assert all(same(pixels(a["path"]), pixels(b["path"])) for a, b in zip(again, first, strict=True))
    assert [set(r) & {"class", "trunc", "seed"} for r in again] == [set(), set()]
    assert {r["status"] for r in told(back)} == {"exists"}
    for options, said in (({"trunc": 0.5}, "--trunc"), ({"classes": "1"}, "--class")):
        with pytest.raises(UsageError, match=f"cannot use {said} with --latents") as e:
            run(replace(back, **options))
        assert "holds w" in e.value.why
    # A z alone is of the class that its file, or --class, says.
    write_npz(tmp_path / "z.npz", {name: arrays[name] for name in ("z", "class", "model", "revision")})
    z = replace(classes, latents=(str(tmp_path / "z.npz"),), trunc=0.6, out=str(tmp_path / "z"))
    assert same(drawn(z)[0], pixels(first[0]["path"]))
    assert told(replace(z, classes="3", out=str(tmp_path / "z3")))[0]["class"] == 3
    with pytest.raises(UsageError, match="a latent takes one class") as e:
        run(replace(z, classes="3,4", out=str(tmp_path / "z3")))
    write_npz(tmp_path / "far.npz", {"z": arrays["z"], "class": np.array(12)})
    with pytest.raises(UsageError, match="class 12 out of range 0-9"):
        run(replace(z, latents=(str(tmp_path / "far.npz"),)))


def test_a_w_of_another_model_is_refused_naming_both(style, styled: Tiny, tmp_path: Path) -> None:
    other = styled(z_dim=8)
    run(replace(style, save_latents=True))
    file = str(tmp_path / "out/seed0000.npz")
    with pytest.raises(UsageError) as e:
        run(SampleRequest(model=str(other), latents=(file,), out=str(tmp_path / "b"), device="cpu"))
    assert e.value.why.count("tiny-stylegan2") == 2 and read_revision(file) in e.value.why
    write_npz(tmp_path / "w.npz", {"w": np.zeros((3, 16), np.float32)})
    with pytest.raises(UsageError, match=r"'w' has shape \(3, 16\)"):
        run(replace(style, latents=(str(tmp_path / "w.npz"),)))


def read_revision(file: str) -> str:
    return str(read_npz(Path(file))["revision"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trunc": float("nan")}, "cannot use --trunc nan"),
        ({"trunc": 1e6}, "it must be a number from -100 to 100"),
        ({"trunc_cutoff": -1}, "cannot use --trunc-cutoff -1"),
        ({"trunc_cutoff": 7}, "has 6 layers"),
        ({"trunc_cutoff": 2}, "nothing is truncated pass --trunc too"),
        ({"noise_layers": "1", "noise_mode": "none"}, "no layer adds noise then"),
        ({"grid": "2x1", "save_latents": True, "out": "x.png"}, "cannot use --save-latents with a grid alone"),
        ({"subdirs": True, "out": "x.png"}, "cannot use --subdirs with 'x.png'"),
        ({"classes": "1"}, "was not trained on classes"),
        ({"noise_layers": "3-5"}, "has 5 layers with noise"),
        ({"noise_layers": "a"}, "write it as --noise-layers 0-6"),
        ({"translate": "1"}, "it is not X,Y"),
        ({"translate": "0,nan"}, "each is -100 to 100 sides of the picture"),
        ({"rotate": float("inf")}, "cannot use --rotate inf"),
        ({"translate": "0.5,0"}, "is a stylegan2, whose layers are bound to the pixels"),
        ({"rows": "1"}, "cannot use --rows without --cols"),
        ({"styles": "0-2"}, "cannot use --styles without --rows"),
        ({"rows": "1", "cols": "2", "styles": "4-9"}, "style 9 out of range 0-5"),
        ({"rows": "1", "cols": "2", "styles": "2-1"}, "neither a layer nor a range"),
        ({"rows": "1", "cols": "2", "seeds": "3"}, "cannot use --seeds with --rows"),
        ({"rows": "0-100", "cols": "0-100"}, "has more than 10,000 pictures"),
        ({"rows": "1-", "cols": "2"}, "write it as --rows 0-35,85"),
        ({"rows": "1", "cols": "2", "out": "x.zip"}, "it is one picture"),
        ({"rows": "1", "cols": "2", "format": "npy"}, "a grid is one picture"),
    ],
)
def test_what_does_not_go_is_refused(style: SampleRequest, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        run(replace(style, **options))
    assert said in f"{e.value.message} {e.value.hint}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1200", "class 1200 out of range 0-9"),
        ("-1", "class -1 out of range 0-9"),
        ("3-12", "class 12 out of range 0-9"),
        ("4-2", "the range 4-2 runs backwards"),
        ("tabby", "unknown class 'tabby'. the model's are numbers, 0-9"),
        ("", "unknown class ''"),
        ("1,,2", "unknown class ''"),
        ("0-999999999", "class 999999999 out of range 0-9"),
    ],
)
def test_classes_that_are_none(classes: SampleRequest, text: str, said: str) -> None:
    with pytest.raises(UsageError) as e:
        run(replace(classes, classes=text))
    assert said in e.value.message


def test_sheets_and_files_that_classes_do_not_fill(classes: SampleRequest, tmp_path: Path) -> None:
    assert resolve(replace(classes, grid="4x3", classes="0-3")).num == 3
    with pytest.raises(UsageError, match="cannot fill --grid 4x4"):
        run(replace(classes, grid="4x4", classes="all"))
    with pytest.raises(UsageError, match="cannot write 2 images"):
        run(replace(classes, classes="1,2", out=str(tmp_path / "x.png")))
    with pytest.raises(UsageError, match="cannot write 10 images"):
        run(replace(classes, classes="all", out=str(tmp_path / "x.png")))
    with pytest.raises(UsageError, match="a mixing sheet takes one class"):
        run(replace(classes, rows="1", cols="2", classes="1,2"))


def test_the_command_line(ganctl: Shell, styled: Tiny) -> None:
    model = styled()
    command = ("sample", model, "--trunc", 0.7, "--trunc-cutoff", 4, "--noise-mode", "random", "-o", "out", "--json")
    (line,) = ganctl.ok(*command).lines
    assert json.loads(line)["trunc"] == 0.7
    again = ganctl.ok(*command, PYTHONPROFILEIMPORTTIME="1")
    assert json.loads(again.lines[0])["status"] == "exists" and "torch" not in imported(again.err)
    plan = ganctl.ok("sample", model, "--rows", "1,2", "--cols", 3, "--styles", "0-2", "--class", 4, "--dry-run").lines
    assert {"rows: 1-2", "cols: '3'", "styles: 0-2", "classes: '4'"} <= set(plan)


def test_a_plane_is_moved_and_turned(tiny: Tiny, tmp_path: Path) -> None:
    model = str(tiny("stylegan3", resolution=16, **STYLEGAN3))
    request = SampleRequest(model=model, device="cpu", out=str(tmp_path / "still"))
    (still,) = drawn(request)
    moved = replace(request, translate="0.25,-0.5", rotate=90.0, out=str(tmp_path / "moved"))
    (found,) = told(moved)
    record = request_of(Path(found["path"]))
    assert record is not None and (record["translate"], record["rotate"]) == ("0.25,-0.5", 90.0)
    net = load(model, device="cpu").net
    with torch.inference_mode():
        w = net.map(net.prior([0]))
    assert same(net_pixels(net, w), still)
    transformed(net, (0.25, -0.5), 90.0)
    assert same(net_pixels(net, w), pixels(found["path"])) and not same(still, pixels(found["path"]))
    assert told(moved)[0]["status"] == "exists"
    for options in ({"noise_mode": "random"}, {"noise_mode": "none"}, {"noise_layers": "0"}):
        with pytest.raises(UsageError, match=r"cannot use --noise-.*\. '.*tiny-stylegan3' adds no noise"):
            run(replace(request, out=str(tmp_path / "other"), **options))


def test_a_model_without_w_refuses_what_needs_one(lively: Tiny, tmp_path: Path) -> None:
    model = str(lively("dcgan", resolution=16, channels=1, z_dim=8, ngf=4, ndf=4))
    for options in ({"trunc": 1.0}, {"trunc_cutoff": 2}, {"noise_mode": "const"}, {"rows": "1", "cols": "2"}):
        with pytest.raises(UsageError) as e:
            run(SampleRequest(model=model, out=str(tmp_path), device="cpu", **options))
        option = f"--{next(iter(options)).replace('_', '-')}"
        assert e.value.what == f"cannot use {option}"
        assert e.value.why == f"'{model}' is of the family dcgan, which has no latent space W" and e.value.hint
    assert not list(tmp_path.iterdir())


def test_half_precision_on_a_processor_that_has_it(style: SampleRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 moves a picture a little, the same way in every batch, and is written into the file; else it is fp32."""
    warned: list[str] = []
    style = replace(style, num=2, overwrite=True)
    made = []
    for has, request in (
        (False, replace(style, dtype="bf16")),
        (True, replace(style, dtype="bf16", batch_size=1)),
        (True, replace(style, dtype="bf16", batch_size=2)),
    ):
        monkeypatch.setattr(precision, "computes_in", lambda half, device, has=has: has)
        results: list[Mapping[str, Any]] = []
        run(request, Reporter(result=results.append, warn=lambda *parts: warned.append(" ".join(parts))))
        paths = [Path(r["path"]) for r in results]
        assert (request_of(paths[0]) or {}).get("dtype") == ("bf16" if has else None)
        made.append([path.read_bytes() for path in paths])
    assert warned == ["--dtype bf16 is not used this processor has no such arithmetic: everything is computed in fp32 "]
    assert made[1] == made[2]
    for exact, half in zip(made[0], made[1], strict=True):
        a, b = (read_image(data, name="x").pixels.astype(int) for data in (exact, half))
        assert 0 < abs(a - b).mean() < 3
