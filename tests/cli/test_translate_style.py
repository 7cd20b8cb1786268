"""translate --style, --like, --alpha: the mean of codes by hand, what records hold, and what is refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.errors import UsageError
from ganctl.io.bundle import read_bundle, write_bundle
from ganctl.io.images import BadImage, from_pixels, request_of, to_channels, to_pixels
from ganctl.load import load
from ganctl.workflows.translate_style import check_style
from tests.conftest import Shell, Tiny

from .test_translate import here, picture, pixels_of, stored, translated  # noqa: F401 (fixtures)


@pytest.fixture
def adain(tiny: Tiny, tmp_path: Path) -> Path:
    """Weights that carry a picture through: of variance 2 / inputs, and a decoder around mid-grey."""
    bundle = read_bundle(tiny("adain", resolution=16, width=8))
    state, g = bundle.state("G"), torch.Generator().manual_seed(0)
    for key, value in state.items():
        if value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=g) * (2 / value[0].numel()) ** 0.5
    state["decoder.28.weight"] *= 0.1
    state["decoder.28.bias"][:] = 0.5
    write_bundle(tmp_path / "adain", model="adain", config=bundle.config, states={"G": state}, card={})
    return tmp_path / "adain"


def by_hand(bundle: Path, content: np.ndarray, parts: list[tuple[np.ndarray, float]], alpha: float = 1) -> np.ndarray:
    """Features normalised, then scaled by the weighted means of the styles' deviations and moved by their means."""
    G = load(str(bundle), device="cpu").net
    with torch.inference_mode():
        codes = [w * G.encode_style(from_pixels(to_channels(p, 3)[None], (-1, 1))) for p, w in parts]
        code = torch.stack(codes).sum(0) / sum(w for _, w in parts)
        x = from_pixels(content[None], (-1, 1))
        code = alpha * code + (1 - alpha) * G.encode_style(x)
        f = G.encoder((x + 1) / 2)
        normal = (f - f.mean((2, 3), keepdim=True)) / (f.var((2, 3), keepdim=True) + 1e-5).sqrt()
        made = G.decoder(code[:, 1, :, None, None] * normal + code[:, 0, :, None, None])
    return to_pixels(made, (0, 1))[0]


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Rounding may move a pixel by one level."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def test_one_style_several_and_a_share_of_them(adain: Path, here: Path) -> None:  # noqa: F811
    content = picture("in/photo.png", (24, 32))
    a, b = picture("a.png", (40, 24), seed=1) // 4, picture("b.png", (17, 50), 4, seed=2)
    Image.fromarray(a).save("a.png")
    made = {}
    for name, options, parts, alpha in (
        ("one", {"styles": ("a.png",)}, [(a, 1)], 1),
        ("other", {"styles": ("b.png",)}, [(b, 1)], 1),
        ("mean", {"likes": ("a.png", "b.png")}, [(a, 1), (b, 1)], 1),
        ("weighted", {"styles": ("a.png:3", "b.png:0.5")}, [(a, 3), (b, 0.5)], 1),
        ("mixed", {"styles": ("a.png:3",), "likes": ("b.png",)}, [(a, 3), (b, 1)], 1),
        ("half", {"styles": ("a.png",), "alpha": 0.4}, [(a, 1)], 0.4),
        ("own", {"styles": ("a.png",), "alpha": 0.0}, [(a, 1)], 0),
    ):
        (result,) = translated("in/photo.png", model=str(adain), out=f"{name}/", **options)
        made[name] = pixels_of(result["path"])
        assert near(made[name], by_hand(adain, content, parts, alpha)), name
    assert len({m.tobytes() for m in made.values()}) == len(made)


def test_records_hold_the_content_of_styles_and_a_rerun_finds_them(adain: Path, here: Path) -> None:  # noqa: F811
    picture("in/photo.png"), picture("a.png", seed=1)
    options = {"model": str(adain), "out": "out/", "styles": ("a.png:2",), "alpha": 0.5}
    (first,) = translated("in/photo.png", **options)
    digest = hashlib.sha256(Path("a.png").read_bytes()).hexdigest()
    record = request_of(Path(first["path"]))
    assert record["style"] == [[digest, 2.0]] and record["alpha"] == 0.5
    Path("a.png").rename("renamed.png")
    (again,) = translated("in/photo.png", **{**options, "styles": ("renamed.png:2",)})
    assert again["status"] == "exists"
    picture("renamed.png", seed=3)
    for changed in ({"styles": ("renamed.png:2",)}, {"styles": ("in/photo.png",)}, {"alpha": 0.6}):
        with pytest.raises(UsageError, match="refused to overwrite"):
            translated("in/photo.png", **{**options, "styles": ("renamed.png:2",), **changed})


def test_what_would_do_nothing_or_cannot_be_is_refused(adain: Path, stored: Path, here: Path) -> None:  # noqa: F811
    picture("p.png"), picture("s/a.png", seed=1), picture("s/b.png", seed=2)
    for model, options, told in (
        (stored, {"styles": ("p.png",)}, "it has one style of its own"),
        (adain, {}, "without a style"),
        (adain, {"styles": ("7",)}, "'7' is no file, and this model draws no styles from seeds"),
        (adain, {"alpha": 0.5}, "cannot use --alpha without a style"),
        (adain, {"alpha": 1.5, "likes": ("s",)}, "it is a share of the style, 0 to 1"),
        (adain, {"styles": ("p.png:0",)}, "with weights of 0 alone"),
        (adain, {"styles": ("p.png:1e999",)}, "its weight is not finite"),
        (adain, {"styles": ("p.png:1.2.3",)}, "'1.2.3' is no weight"),
        (adain, {"styles": ("99999999999:1",)}, "no such path: '99999999999'"),
        (adain, {"styles": ("9999999999",)}, "seeds end at 4294967295"),
        (adain, {"styles": ("s",)}, "it is 2 pictures"),
        (adain, {"styles": ("-",)}, "standard input is for pictures to translate"),
        (adain, {"styles": ("gone.png",)}, "no such path: 'gone.png'"),
    ):
        with pytest.raises(UsageError) as refused:
            translated("p.png", model=str(model), out="out/", **options)
        assert told in refused.value.message, refused.value.message
        assert not Path("out").exists()
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(BadImage, match=r"broken\.png"):
        translated("p.png", model=str(adain), out="out/", styles=("broken.png",))


def test_names_with_colons_and_digits_are_files_where_they_are(here: Path) -> None:  # noqa: F811
    picture("a.png")
    for name in ("a.png:2", "7"):
        Path(name).write_bytes(Path("a.png").read_bytes())
    (named,), (number,), (weighted,) = (check_style((s,), (), None) for s in ("a.png:2", "7", "7:0.25"))
    assert (named.picture.name, named.weight) == ("a.png:2", 1) and number.picture.name == "7"
    assert (weighted.picture.name, weighted.weight) == ("7", 0.25)
    (seed,) = check_style(("8:2",), (), None)
    assert (seed.picture, seed.seed, seed.weight) == (None, 8, 2)


def test_small_pictures_keep_their_size(adain: Path, here: Path) -> None:  # noqa: F811
    picture("in/dot.png", (1, 1)), picture("in/line.png", (3, 21), 1), picture("s.png", (2, 5))
    results = translated("in", model=str(adain), out="out/", likes=("s.png",))
    assert [r["size"] for r in results] == [[1, 1], [21, 3]]


def test_from_the_command_line(adain: Path, here: Path, ganctl: Shell) -> None:  # noqa: F811
    for name in ("p.png", "s/a.png", "s/b.png"):
        picture(ganctl.folder / name, seed=len(name))
    line = ["translate", str(adain), "p.png", "-o", "x.png"]
    done = ganctl(*line, "--style", "s/a.png:2", "--like", "s", "--alpha", "0.5")
    assert (done.code, done.out) == (0, "x.png\n"), done.err
    assert len(request_of(ganctl.folder / "x.png")["style"]) == 3
    wrong = ganctl(*line[:-1], "y.png", "--style", "3")
    assert wrong.code == 2 and "this model draws no styles from seeds" in wrong.err


def test_styles_of_seeds_and_of_class_images(tiny: Tiny, here: Path) -> None:  # noqa: F811
    """MUNIT: a number is a seed, as --seed is; each way has its styles. FUNIT: the mean over a class's images."""
    small = {"resolution": 16, "ngf": 4, "ndf": 4, "res_blocks": 1, "mlp_dim": 8}
    munit = str(tiny("munit", n_layers=2, scales=2, **small))
    funit = str(tiny("funit", n_layers=2, style_dim=4, **small))
    content = picture("in/photo.png", (24, 32))
    a, b = picture("like/a.png", (20, 24), seed=1), picture("like/b.png", (17, 40), seed=2)

    def made(model: str, **options: object) -> np.ndarray:
        (result,) = translated("in/photo.png", model=model, out="out/", overwrite=True, **options)
        return pixels_of(result["path"])

    G = load(munit, device="cpu").net
    x, codes = from_pixels(content[None], (-1, 1)), [from_pixels(p[None], (-1, 1)) for p in (a, b)]
    with torch.inference_mode():
        mixed = (G.draw_style([7]) + 3 * G.encode_style(codes[0])) / 4
        back = G.reverse.translate(x, style=G.A.encode_style(codes[0]))
        assert near(made(munit, styles=("7",)), made(munit, seed=7))
        assert near(made(munit, styles=("7", "like/a.png:3")), to_pixels(G.translate(x, style=mixed), (-1, 1))[0])
        assert near(made(munit, styles=("like/a.png",), direction="BtoA"), to_pixels(back, (-1, 1))[0])
        G = load(funit, device="cpu").net
        mean, own = torch.cat([G.encode_style(y) for y in codes]).mean(0, keepdim=True), G.encode_style(x)
        assert near(made(funit, likes=("like",)), to_pixels(G.translate(x, style=mean), (-1, 1))[0])
        half = to_pixels(G.translate(x, style=(mean + own) / 2), (-1, 1))[0]
        assert near(made(funit, likes=("like",), alpha=0.5), half)
    assert not near(made(munit, seed=7), made(munit, seed=8))
    for model, options, told in (
        (munit, {"styles": ("7",), "alpha": 0.5}, "it cannot tell the style of an input"),
        (funit, {}, "without a style"),
        (funit, {"styles": ("7",)}, "draws no styles from seeds"),
    ):
        with pytest.raises(UsageError, match=told):
            translated("in/photo.png", model=model, out="other/", **options)
