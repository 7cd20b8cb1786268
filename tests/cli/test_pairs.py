"""`ganctl fid --pairs`: which images belong together, their scores and means, what is odd, what is refused."""

import gzip
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganctl.errors import GanctlError, PartialError, UsageError, WeightsError
from ganctl.io.images import to_channels
from ganctl.io.progress import Reporter
from ganctl.metrics import perceptual
from ganctl.metrics.psnr import luma, psnr, shave
from ganctl.metrics.ssim import ms_ssim, ssim
from ganctl.workflows.pairs import PairsReport, PairsRequest, run, summarise
from tests.cli.fid_tools import Heard
from tests.conftest import Shell, Tiny, golden
from tests.golden import lpips_weights
from tests.golden.inception_weights import arrays


def pairs(real: object, fake: object, **options: Any) -> tuple[Heard, PairsReport | None]:
    """One run on the CPU; an error is kept, not raised."""
    heard, report = Heard(), None
    reporter = Reporter(
        result=lambda r: heard.results.append(json.loads(json.dumps(dict(r), allow_nan=False))),
        warn=lambda what, why, hint: heard.warnings.append(f"{what} | {why} | {hint}"),
        note=heard.notes.append,
    )
    try:
        report = run(PairsRequest(real=str(real), fake=str(fake), device="cpu", workers=2, **options), reporter)
    except GanctlError as e:
        heard.error = e
    return heard, report


def image(seed: int, size: tuple[int, int] = (24, 30), channels: int = 3) -> np.ndarray:
    """A smooth picture: blobs of colour, uint8 [h, w, channels]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return pixels if channels == 3 else to_channels(pixels, channels)


def noisy(pixels: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, strength, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Four images and the same with more and more noise, one below a folder; the last is JPEG on one side only."""
    for i, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png")):
        save(tmp_path / "real" / name, image(i))
        save(tmp_path / "fake" / name, noisy(image(i), 4 * i + 4))
    (tmp_path / "real" / "d.png").unlink()
    save(tmp_path / "real" / "d.jpg", image(3))
    return tmp_path / "real", tmp_path / "fake"


def test_values_and_stamp(sides: tuple[Path, Path]) -> None:
    heard, report = pairs(*sides, metrics="psnr,ssim", border=2, channels="y")
    assert report is not None and [o.pair.name for o in report.pairs] == ["a", "b", "d", "sub/c"]
    wanted: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for name in ("a.png", "b.png", "d.jpg", "sub/c.png"):
        x, y = (np.asarray(Image.open(p)) for p in (sides[0] / name, (sides[1] / name).with_suffix(".png")))
        x, y = luma(shave(x, 2)), luma(shave(y, 2))
        wanted["psnr"].append(psnr(x, y))
        wanted["ssim"].append(ssim(x, y))
    assert [r["metric"] for r in heard.results] == ["psnr", "ssim"]
    for stamp in heard.results:
        metric = stamp["metric"]
        values = np.array(wanted[metric])
        assert [o.scores[metric] for o in report.pairs] == wanted[metric]
        assert stamp[metric] == report.scores[metric] == values.mean()
        assert (stamp["std"], stamp["min"], stamp["max"]) == (values.std(), values.min(), values.max())
        assert stamp["worst"] == ["a", "b", "d", "sub/c"][values.argmin()]
        known = {
            "n": 4,
            "identical": 0,
            "channels": "y",
            "border": 2,
            "real": str(sides[0]),
            "fake": str(sides[1]),
            "pairing": "by name",
            "sizes": {"30x24": 4},
            "read": 4,
            "used": 4,
            "skipped": 0,
            "warnings": [],
        }
        assert known.items() <= stamp.items()
    assert heard.notes == [f"{m}, luma, border 2, 4 pairs" for m in ("psnr", "ssim")]
    assert heard.warnings == []


def test_any_number_of_workers_gives_the_same_numbers(sides: tuple[Path, Path]) -> None:
    reports = []
    for workers in (0, 1, 5):
        request = PairsRequest(real=str(sides[0]), fake=str(sides[1]), workers=workers)
        reports.append(run(request))
    assert reports[0] == reports[1] == reports[2]


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    a, b = save(tmp_path / "x.png", image(0, (170, 180))), save(tmp_path / "y.bmp", noisy(image(0, (170, 180)), 9))
    heard, report = pairs(a, b, metrics="psnr,ms-ssim")
    assert report is not None and report.pairs[0].pair.name == "x"
    x, y = image(0, (170, 180)), np.asarray(Image.open(b))
    assert report.scores == {"psnr": psnr(x, y), "ms-ssim": ms_ssim(x, y)}
    assert heard.notes[0] == "psnr, rgb, border 0, 1 pair"
    assert heard.warnings == []


def test_archives_and_idx(sides: tuple[Path, Path], tmp_path: Path) -> None:
    wanted = pairs(*sides)[0].results
    with zipfile.ZipFile(tmp_path / "fake.zip", "w") as z:
        for path in sorted(sides[1].rglob("*.png")):
            z.write(path, path.relative_to(sides[1]))
    found = pairs(sides[0], tmp_path / "fake.zip")[0].results
    assert [r[r["metric"]] for r in found] == [r[r["metric"]] for r in wanted]
    digits = np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8)
    for name, array in (("real", digits), ("fake", digits // 2)):
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (tmp_path / f"{name}-idx3-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    heard, report = pairs(tmp_path / "real-idx3-ubyte.gz", tmp_path / "fake-idx3-ubyte.gz", metrics="psnr")
    assert report is not None and [o.pair.name for o in report.pairs] == ["0", "1", "2"]
    assert report.pairs[1].scores["psnr"] == psnr(digits[1][..., None], digits[1][..., None] // 2)
    assert len(heard.warnings) == 2 and "was converted to rgb | 3 images repeated to RGB" in heard.warnings[0]


@pytest.mark.parametrize(
    ("real", "fake", "names", "rule"),
    [
        (["001_HR", "101_HR"], ["001_SR_4", "101_SR_4"], ["001", "101"], "without the ending '_HR' and '_SR_4'"),
        (["0801", "0811"], ["0801x4", "0811x4"], ["0801", "0811"], "without the ending 'x4'"),
        (["HR/a", "HR/b"], ["LR/a", "LR/b"], ["a", "b"], "below 'HR/' and 'LR/'"),
        (["a", "b"], ["out/a_up", "out/b_up"], ["a", "b"], "below 'out/' without the ending '_up'"),
    ],
)
def test_names_that_differ_by_a_rule(
    tmp_path: Path, real: list[str], fake: list[str], names: list[str], rule: str
) -> None:
    for side, files in (("real", real), ("fake", fake)):
        for i, name in enumerate(files):
            save(tmp_path / side / f"{name}.png", noisy(image(i), 10 if side == "fake" else 0))
    heard, report = pairs(tmp_path / "real", tmp_path / "fake", metrics="psnr")
    assert report is not None, heard.error
    assert [o.pair.name for o in report.pairs] == names
    assert all(o.scores["psnr"] > 25 for o in report.pairs)  # of two different images it is far lower
    assert heard.stamp["pairing"] == f"by name {rule}"
    (warning,) = heard.warnings
    assert warning.startswith(f"images were paired by name {rule} | such as '{real[0]}.png' with '{fake[0]}.png'")


def test_every_image_needs_its_partner(sides: tuple[Path, Path]) -> None:
    save(sides[0] / "zebra.png", image(9))
    error = pairs(*sides)[0].error
    assert isinstance(error, UsageError)
    assert error.why == f"1 of 5 images of '{sides[0]}' have no partner, the first 'zebra.png'"
    save(sides[1] / "Zebra.png", image(9))
    error = pairs(*sides)[0].error
    assert error is not None and error.why.splitlines() == [
        f"1 of 5 images of '{side}' have no partner, the first '{name}'"
        for side, name in zip(sides, ("zebra.png", "Zebra.png"), strict=True)
    ]
    (sides[1] / "Zebra.png").rename(sides[1] / "zebra.png")
    assert pairs(*sides)[0].error is None
    save(sides[1] / "zebra.bmp", image(9))
    error = pairs(*sides)[0].error
    assert error is not None and "'zebra.bmp' and 'zebra.png' of" in error.why


def test_strangers_are_not_paired(tmp_path: Path) -> None:
    """One image on each side, or as many, is no reason to compare them."""
    save(tmp_path / "real" / "cat.png", image(0))
    save(tmp_path / "fake" / "dog.png", image(1))
    for _ in range(2):
        error = pairs(tmp_path / "real", tmp_path / "fake")[0].error
        assert isinstance(error, UsageError)
        assert error.why.count("have no partner") == 2
        save(tmp_path / "real" / "cow.png", image(2))
        save(tmp_path / "fake" / "hen.png", image(3))


def test_n_draws_pairs_by_the_seed(sides: tuple[Path, Path]) -> None:
    def names(**options: Any) -> list[str]:
        report = pairs(*sides, metrics="psnr", **options)[1]
        assert report is not None
        return [o.pair.name for o in report.pairs]

    drawn = {tuple(names(num=2, seed=seed)) for seed in range(6)}
    assert len(drawn) > 1 and all(len(d) == 2 and list(d) == sorted(d) for d in drawn)
    assert names(num=2, seed=3) == names(num=2, seed=3)
    assert len(names(num=99)) == 4


def test_identical_pairs(sides: tuple[Path, Path]) -> None:
    (sides[1] / "a.png").write_bytes((sides[0] / "a.png").read_bytes())
    heard, report = pairs(*sides)
    assert report is not None and report.pairs[0].identical and report.pairs[0].scores["psnr"] == math.inf
    others = [o.scores["psnr"] for o in report.pairs[1:]]
    of_psnr, of_ssim = heard.results
    assert (of_psnr["psnr"], of_psnr["max"], of_psnr["identical"]) == (np.mean(others), max(others), 1)
    assert (of_ssim["max"], of_ssim["n"], of_ssim["identical"]) == (1, 4, 1)
    assert heard.warnings == [
        "1 of 4 pairs are identical | their psnr is infinite, and its mean is that of the others | "
    ]
    heard, report = pairs(sides[0], sides[0])
    assert report is not None and report.scores == {"psnr": math.inf, "ssim": 1.0}
    assert heard.results[0]["psnr"] is None and heard.results[0]["identical"] == 4
    assert heard.warnings[0].startswith("REAL and FAKE are the same | ") and len(heard.warnings) == 1


def test_summary() -> None:
    values = [("a", 20.0), ("b", math.inf), ("c", 30.0)]
    assert summarise("psnr", values) == {"psnr": 25, "std": 5, "min": 20, "max": 30, "worst": "a"}
    assert summarise("lpips-alex", [("a", 0.25), ("b", 0.75)])["worst"] == "b"
    assert set(summarise("psnr", values[1:2]).values()) == {None}


def test_lpips_is_the_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded distances, from files; the recorded weights stand in for those of the zoo."""
    file = golden("lpips.safetensors")
    recorded, _ = arrays(file)
    for i, (x, y) in enumerate(zip(recorded["in.image0"], recorded["in.image1"], strict=True)):
        for side, pixels in (("real", x), ("fake", y)):
            save(tmp_path / side / f"{i}.png", pixels.transpose(1, 2, 0))
    monkeypatch.setattr(perceptual, "open_lpips", lambda net, **_: (lpips_weights.network(file, net), f"sha of {net}"))
    heard, report = pairs(tmp_path / "real", tmp_path / "fake", metrics="lpips,ssim,lpips-squeeze", channels="y")
    assert report is not None, heard.error
    for net in ("alex", "squeeze"):
        found = [o.scores[f"lpips-{net}"] for o in report.pairs]
        np.testing.assert_allclose(found, recorded[f"out.{net}.distance"].reshape(-1), rtol=1e-4, atol=1e-6)
    first, middle, last = heard.results
    assert (first["metric"], middle["metric"], last["metric"]) == ("lpips-alex", "ssim", "lpips-squeeze")
    assert (first["channels"], middle["channels"]) == ("rgb", "y")
    assert (first["features"], first["weights_sha256"]) == ("lpips-alex", "sha of alex")
    assert "features" not in middle
    assert first["worst"] == str(np.argmax([o.scores["lpips-alex"] for o in report.pairs]))
    assert first["identical"] == 1 and first["min"] == 0
    size = recorded["in.image0"].shape[2]
    heard, _ = pairs(tmp_path / "real", tmp_path / "fake", metrics="lpips", border=size // 2 - 4)
    assert heard.error is not None and "this network needs" in heard.error.why


def test_lpips_not_at_hand(sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    heard, _ = pairs(*sides, metrics="psnr,lpips")
    assert isinstance(heard.error, WeightsError) and heard.error.hint.endswith("ganctl zoo pull alexnet-imagenet")
    assert heard.results == [], "missing weights are found before any image is read"


def test_grey_and_alpha_are_converted_and_said_so(tmp_path: Path) -> None:
    rgba = np.concatenate([image(1), image(2, channels=1)], axis=2)
    save(tmp_path / "real" / "a.png", image(0))
    save(tmp_path / "fake" / "a.png", image(0, channels=1))
    save(tmp_path / "real" / "b.png", image(1))
    save(tmp_path / "fake" / "b.png", rgba)
    heard, report = pairs(tmp_path / "real", tmp_path / "fake", metrics="psnr")
    assert report is not None
    assert report.pairs[0].scores["psnr"] == psnr(image(0), to_channels(image(0, channels=1), 3))
    assert report.pairs[1].scores["psnr"] == psnr(image(1), to_channels(rgba, 3))
    (warning,) = heard.warnings
    wanted = "was converted to rgb | 1 image repeated to RGB, 1 image laid over white"
    assert warning.startswith(f"'{tmp_path / 'fake'}' {wanted}")
    assert "lower psnr" in pairs(tmp_path / "real", tmp_path / "fake", channels="y")[0].warnings[0]
    assert heard.stamp["warnings"] == [warning.rpartition(" | ")[0].replace(" | ", ": ")]


def test_pairs_without_a_score(sides: tuple[Path, Path]) -> None:
    """Unreadable, of two sizes, or too small: every one is named, and none is left out unless asked for."""
    (sides[0] / "a.png").write_bytes(b"\x89PNG broken")
    save(sides[1] / "b.png", image(1, (12, 15)))
    heard, _ = pairs(*sides)
    assert type(heard.error) is GanctlError
    assert heard.error.what == "2 of 4 pairs cannot be scored" and "--skip-bad" in heard.error.hint
    failed = {Path(r["input"]).name: r["error"] for r in heard.results}
    assert failed.keys() == {"a.png", "b.png"} and all(r["status"] == "failed" for r in heard.results)
    assert failed["b.png"] == "it is 15x12, its original 30x24"

    heard, _ = pairs(*sides, skip_bad=True)
    assert isinstance(heard.error, PartialError) and heard.error.what == "2 of 4 pairs were skipped"
    stamps = [r for r in heard.results if "metric" in r]
    assert [(s["metric"], s["n"], s["read"], s["skipped"]) for s in stamps] == [("psnr", 2, 4, 2), ("ssim", 2, 4, 2)]

    heard, _ = pairs(*sides, fail_fast=True)
    assert type(heard.error) is GanctlError and len(heard.results) == 1
    assert heard.error.what == "stopped at the first pair that cannot be scored"

    heard, _ = pairs(*sides, metrics="ms-ssim", skip_bad=True)
    assert isinstance(heard.error, UsageError)
    assert heard.error.why.startswith("none of the 4 pairs can be scored, the first: ")
    assert len(heard.results) == 4
    assert "ms-ssim needs images of more than 160 pixels at each side, these are 30x24" in heard.results[2]["error"]
    heard, _ = pairs(*sides, border=12, skip_bad=True)
    assert "a border of 12 pixels at each side leaves nothing of 30x24" in heard.results[2]["error"]


@pytest.mark.parametrize(
    ("options", "what", "why"),
    [
        ({"metrics": "fid"}, "cannot use --metrics fid with --pairs", "it compares sets of images"),
        ({"metrics": "pnsr"}, "unknown metric 'pnsr'", "known: psnr, ssim, ms-ssim, lpips"),
        ({"metrics": " ,"}, "cannot use --metrics ''", "no metric is named"),
        ({"border": -1}, "cannot use --border -1", "0 to 4096 works"),
        ({"num": 0}, "cannot use -n 0", "1 to"),
        ({"channels": "luma"}, "unknown channels 'luma'", "known: rgb, y"),
        ({"metrics": "lpips", "channels": "y"}, "cannot use --channels y with lpips-alex", "it belongs to psnr"),
    ],
)
def test_options_are_checked_first(tmp_path: Path, options: dict[str, Any], what: str, why: str) -> None:
    error = pairs(tmp_path / "absent", tmp_path / "absent", **options)[0].error
    assert isinstance(error, UsageError) and error.what == what and error.why.startswith(why)
    if options.get("metrics") == "pnsr":
        assert error.hint == "did you mean psnr?"


def test_sides_that_hold_no_images(sides: tuple[Path, Path], tmp_path: Path) -> None:
    error = pairs(sides[0], tmp_path / "absent")[0].error
    assert isinstance(error, UsageError) and error.what == f"no such path or model '{tmp_path / 'absent'}'"
    error = pairs(sides[0], "dcgan-mnist")[0].error
    assert isinstance(error, UsageError) and error.what == "cannot pair originals with 'dcgan-mnist'"
    assert error.why == "'dcgan' does not enlarge images"
    with pytest.raises(UsageError, match="pairs need two sides"):
        run(PairsRequest(real=str(sides[0])))


# The command line


def test_streams_and_exit_codes(ganctl: Shell, sides: tuple[Path, Path]) -> None:
    command = ("fid", *sides, "--pairs", "--no-progress")
    report = run(PairsRequest(real=str(sides[0]), fake=str(sides[1])))
    done = ganctl.ok(*command)
    rows = [line.split("\t") for line in done.lines]
    assert [row[:2] for row in rows] == [[m, f"{report.scores[m]:.4f}"] for m in ("psnr", "ssim")]
    assert done.err.splitlines() == ["psnr, rgb, border 0, 4 pairs", "ssim, rgb, border 0, 4 pairs"]

    done = ganctl.ok(*command, "--metrics", "psnr", "--channels", "y", "--border", "2", "--json")
    stamp = json.loads(done.out)
    wanted = run(PairsRequest(real=str(sides[0]), fake=str(sides[1]), metrics="psnr", channels="y", border=2))
    assert stamp["psnr"] == wanted.scores["psnr"] and (stamp["channels"], stamp["border"]) == ("y", 2)

    done = ganctl.ok("fid", sides[0], sides[0], "--pairs", "--metrics", "psnr", "-q")
    assert done.out.split("\t")[0].strip() == "inf" and done.err == ""
    done = ganctl.ok("fid", sides[0], sides[0], "--pairs", "--metrics", "psnr", "--json", "-q")
    assert json.loads(done.out)["psnr"] is None

    (sides[0] / "a.png").write_bytes(b"no image")
    save(sides[1] / "b.png", image(1, (12, 15)))
    done = ganctl(*command)
    assert (done.code, done.out) == (1, "")
    assert f"{sides[0] / 'a.png'}: it is no image" in done.err
    assert f"{sides[1] / 'b.png'}: it is 15x12, its original 30x24" in done.err
    assert "error: 2 of 4 pairs cannot be scored" in done.err
    done = ganctl(*command, "--skip-bad")
    assert done.code == 3 and len(done.lines) == 2 and "2 of 4 pairs were skipped" in done.err
    (sides[1] / "sub" / "c.png").unlink()
    done = ganctl(*command, "--skip-bad")
    assert (done.code, done.out) == (2, "") and "have no partner, the first 'sub/c.png'" in done.err


def test_a_model_enlarges_what_was_made_smaller(tmp_path: Path, tiny: Tiny) -> None:
    """FAKE as a model of super-resolution, or as the papers' baseline: as two folders made by hand would score."""
    folder, low, results = (tmp_path / name for name in ("real", "low", "results"))
    for i, size in enumerate([(34, 41), (24, 30)]):
        save(folder / f"{i}.png", image(i, size))
        # Originals are cut to multiples of the factor.
        whole = image(i, size)[: size[0] // 4 * 4, : size[1] // 4 * 4]
        save(tmp_path / "cut" / f"{i}.png", whole)
        small = Image.fromarray(whole).resize((whole.shape[1] // 4, whole.shape[0] // 4), Image.Resampling.BICUBIC)
        save(low / f"{i}.png", np.asarray(small))
        save(results / f"{i}.png", np.asarray(small.resize(whole.shape[1::-1], Image.Resampling.BICUBIC)))
    heard, report = pairs(folder, "bicubic-x4", channels="y", border=4)
    _, wanted = pairs(tmp_path / "cut", results, channels="y", border=4)
    assert report is not None and wanted is not None
    # Pillow's low resolution is rounded twice, ours once.
    for metric, near in (("psnr", 0.1), ("ssim", 1e-3)):
        assert report.scores[metric] == pytest.approx(wanted.scores[metric], abs=near)
    assert heard.results[0]["sizes"] == {"40x32": 1, "28x24": 1} and heard.results[0]["fake"] == "bicubic-x4"
    assert heard.results[0]["pairing"] == "made smaller by a bicubic kernel, and enlarged"
    bundle = tiny("srgan", width=4, num_blocks=1, ndf=4)
    heard, report = pairs(folder, bundle, channels="y", border=4)
    assert report is not None and report.scores["psnr"] < wanted.scores["psnr"] and heard.error is None
    for other, why in ((tiny("pix2pix", resolution=16, ngf=4, ndf=4, num_downs=4, n_layers=1), "does not enlarge"),):
        heard, _ = pairs(folder, other)
        assert isinstance(heard.error, UsageError) and why in str(heard.error)
    save(folder / "tiny.png", image(9, (3, 30)))
    heard, _ = pairs(folder, "bicubic-x4")
    assert heard.error is not None and "it is 30x3, too small to be made 4 times smaller" in str(heard.error)
