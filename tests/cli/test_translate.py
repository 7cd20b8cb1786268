import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.errors import GanctlError, PartialError, UsageError
from ganctl.io.images import from_pixels, read_image, request_of, resize, to_channels, to_pixels
from ganctl.io.progress import Reporter
from ganctl.workflows.translate import TranslateRequest, run

from ..conftest import Shell, Tiny

SMALL = {"resolution": 32, "num_downs": 4, "ngf": 4, "ndf": 4}
# Five levels deep enough that dropout acts (in levels where the width no longer grows).
NOISY = {"resolution": 64, "num_downs": 6, "ngf": 4, "ndf": 4}


@pytest.fixture
def stored(tiny: Tiny) -> Path:
    return tiny("pix2pix", **SMALL, test_time="stored")


@pytest.fixture
def noisy(tiny: Tiny) -> Path:
    return tiny("pix2pix", **NOISY)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def picture(
    path: str | Path, size: tuple[int, int] = (20, 24), channels: int = 3, seed: int = 0, **options: object
) -> np.ndarray:
    """A random image of (height, width), written; its pixels [H, W, C]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path, **options)
    return pixels


def pixels_of(path: str | Path) -> np.ndarray:
    return read_image(Path(path).read_bytes(), name=str(path)).pixels


def expected(bundle: Path, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The network by hand: reflected up to the stride, one image, cropped back."""
    import torch

    from ganctl.load import load

    net = load(str(bundle), device="cpu").net
    height, width = pixels.shape[:2]
    flat = to_channels(pixels, net.source.channels)
    padded = np.pad(flat, ((0, -height % net.stride), (0, -width % net.stride), (0, 0)), mode="reflect")
    with torch.inference_mode():
        y = net.translate(from_pixels(padded[None], net.source.range), seed=seed)
    return to_pixels(y, net.target.range)[0, :height, :width]


def translated(*inputs: str, **options: object) -> list[dict]:
    results: list[dict] = []
    request = TranslateRequest(inputs=inputs, device="cpu", **options)  # type: ignore[arg-type]
    run(request, Reporter(result=lambda r: results.append(dict(r))))
    return results


# What the pixels are


def test_sizes_that_are_no_multiple_of_the_stride_are_padded_and_cropped_back(stored: Path, here: Path):
    sizes = ((16, 16), (20, 24), (1, 1), (3, 50), (33, 17))
    inputs = {f"in/{i}.png": picture(f"in/{i}.png", size, seed=i) for i, size in enumerate(sizes)}
    results = translated("in", model=str(stored), out="out")
    assert [r["input"] for r in results] == sorted(inputs)
    for result in results:
        pixels = inputs[result["input"]]
        assert (pixels_of(result["path"]) == expected(stored, pixels)).all()
        assert result["size"] == [pixels.shape[1], pixels.shape[0]] and result["ms"] > 0


def test_alpha_orientation_grey_and_size(tiny: Tiny, stored: Path, here: Path):
    rgba = picture("in/rgba.png", channels=4)
    picture("in/grey.png", channels=1, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("in/turned.png", (16, 32), exif=exif)
    translated("in", model=str(stored), out="out")
    out = pixels_of("out/rgba.png")
    assert (out[..., 3] == rgba[..., 3]).all() and (out[..., :3] == expected(stored, rgba)).all()
    assert pixels_of("out/turned.png").shape == (32, 16, 3)
    assert (pixels_of("out/turned.png") == expected(stored, pixels_of("in/turned.png"))).all()
    with Image.open("out/turned.png") as upright:
        assert "exif" not in upright.info and upright.size == (16, 32)
    # --size: what the network sees and gives back, alpha with it.
    (result,) = translated("in/rgba.png", model=str(stored), out="small.png", size="16x32")
    assert result["size"] == [16, 32]
    small = resize(rgba, (32, 16))
    assert (pixels_of("small.png")[..., :3] == expected(stored, small)).all()
    assert (pixels_of("small.png")[..., 3] == small[..., 3]).all()
    # A network of one channel takes the luma of colour.
    grey = tiny("pix2pix", **SMALL, source_channels=1)
    translated("in/rgba.png", "in/grey.png", model=str(grey), out="from-grey")
    for name in ("rgba", "grey"):
        want = expected(grey, pixels_of(f"in/{name}.png"))
        assert (pixels_of(f"from-grey/{name}.png")[..., :3] == want).all()


def test_dropout_is_repeatable_by_seed_and_independent_of_the_batch(noisy: Path, here: Path):
    for i in range(4):
        picture(f"in/{i}.png", (32, 32), seed=i)
    picture("in/other.png", (64, 32))
    translated("in", model=str(noisy), out="a")
    translated("in", model=str(noisy), out="b", batch_size=3)
    translated("in/2.png", model=str(noisy), out="alone.png")
    translated("in/2.png", model=str(noisy), out="seed7.png", seed=7)
    for name in ("0", "1", "2", "3", "other"):
        assert Path(f"a/{name}.png").read_bytes() == Path(f"b/{name}.png").read_bytes()
    assert (pixels_of("alone.png") == pixels_of("a/2.png")).all()
    assert (pixels_of("alone.png") == expected(noisy, pixels_of("in/2.png"))).all()
    assert (pixels_of("seed7.png") == expected(noisy, pixels_of("in/2.png"), seed=7)).all()
    assert (pixels_of("seed7.png") != pixels_of("a/2.png")).any()


def test_formats_suffix_and_concat(stored: Path, here: Path):
    picture("in/a.png")
    picture("in/b.jpg")
    picture("in/c.webp")
    picture("in/d.bmp")
    picture("in/e.JPEG")
    picture("in/f.gif")
    cases = {
        "png": ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"],
        "keep": ["a.png", "b.jpg", "c.webp", "d.png", "e.JPEG", "f.png"],
        "jpg": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"],
        "webp": ["a.webp", "b.webp", "c.webp", "d.webp", "e.webp", "f.webp"],
    }
    real = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    for format, names in cases.items():
        results = translated("in", model=str(stored), out=f"out-{format}", format=format)
        assert [Path(r["path"]).name for r in results] == names
        for name in names:
            with Image.open(f"out-{format}/{name}") as image:
                assert image.format == real[Path(name).suffix.lower()]
    translated("in/a.png", model=str(stored), out="s", suffix="-fake", concat=True)
    both = pixels_of("s/a-fake.png")
    assert both.shape == (20, 48, 3) and (both[:, :24] == pixels_of("in/a.png")).all()
    assert (both[:, 24:] == pixels_of("out-png/a.png")).all()
    with pytest.raises(PartialError, match="longest side is 16383"):
        picture("wide.png", (1, 16_400))
        translated("wide.png", model=str(stored), out="w", format="webp")


def test_zips_keep_their_tree_and_defaults_follow_the_model(stored: Path, here: Path):
    picture("x/a.png")
    picture("x/s/b.png", seed=1)
    with zipfile.ZipFile("faces.zip", "w") as z:
        for name in ("a.png", "s/b.png"):
            z.write(f"x/{name}", name)
        z.writestr("../evil.png", b"x")
    warned: list[str] = []
    results: list[dict] = []
    reporter = Reporter(result=lambda r: results.append(dict(r)), warn=lambda what, why, hint: warned.append(why))
    run(TranslateRequest(model=str(stored), inputs=("faces.zip",), device="cpu"), reporter)
    folder = Path("out", stored.name, "translate")
    assert [r["path"] for r in results] == [str(folder / "a.png"), str(folder / "s" / "b.png")]
    assert [r["input"] for r in results] == ["faces.zip:a.png", "faces.zip:s/b.png"]
    assert (pixels_of(folder / "s" / "b.png") == expected(stored, pixels_of("x/s/b.png"))).all()
    assert len(warned) == 1 and "evil" in warned[0]
    # No machine's folders in a record.
    made = request_of(folder / "a.png")
    assert (
        made
        and made["model"] == stored.name
        and made["input_sha256"] == hashlib.sha256(Path("x/a.png").read_bytes()).hexdigest()
    )
    assert "/" not in json.dumps(made) and results[0]["model"] == stored.name


def test_odd_inputs_are_noted_once(stored: Path, here: Path):
    for i in range(3):
        Image.new("RGB", (16, 16)).save(f"{i}.gif", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")])
    notes: list[str] = []
    results: list[dict] = []
    reporter = Reporter(note=notes.append, result=lambda r: results.append(dict(r)))
    run(TranslateRequest(model=str(stored), inputs=("0.gif", "1.gif", "2.gif"), out="o", device="cpu"), reporter)
    assert notes == ["3 of 3 inputs: first of several frames"]
    assert [r["notes"] for r in results] == [["first of several frames"]] * 3


# What is refused before any work


def test_clashes_and_misuse_end_before_anything_is_loaded(stored: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    picture("p/a.png")
    picture("q/a.png", seed=1)
    picture("p/b.jpg")
    Path("p/clip.mp4").write_bytes(b"x")
    Path("file").write_text("")
    many = {
        ("p/a.png", "q/a.png"): ({"out": "o"}, "both become 'o/a.png'"),
        ("p",): ({"out": "o.png"}, "it takes one image"),
        ("p/a.png",): ({"out": "p"}, "it is an input of this run"),
        ("p/b.jpg",): ({"out": "o.gif"}, "it is written as .png, .jpg"),
        ("q",): ({"out": "o.mp4"}, "it is written as"),
        ("p/a.png", "p/b.jpg"): ({"out": "-"}, "it takes one image"),
        ("p/clip.mp4",): ({"out": "-"}, "cannot write a video to standard output"),
        ("q/a.png",): ({"out": "file/x"}, "is not a folder"),
        ("p/b.jpg", "q/a.png"): ({"size": "0x5"}, "none of keep, N, WxH"),
        ("p/b.jpg", "q"): ({"size": "99999x99999"}, "more than the limit of 100000000 pixels"),
        ("q", "p/b.jpg"): ({"suffix": "/../x"}, "part of a file name"),
        ("nothing",): ({}, "no such path: 'nothing'"),
        (): ({}, "no input"),
    }
    import ganctl.load

    monkeypatch.setattr(ganctl.load, "load", lambda *a, **k: pytest.fail("loaded"))
    for inputs, (options, why) in many.items():
        with pytest.raises(UsageError) as e:
            translated(*inputs, model=str(stored), **options)
        assert why in e.value.message, e.value.message
    with pytest.raises(UsageError, match="unknown model 'pix2pix-emojo'"):
        translated("q", model="pix2pix-emojo")
    assert sorted(p.name for p in here.iterdir()) == ["file", "p", "q"]


def test_a_model_of_another_kind_is_named(tiny: Tiny, here: Path):
    picture("a.png")
    sampler = tiny("dcgan", resolution=16, ngf=4, ndf=4)
    with pytest.raises(UsageError, match="'dcgan' does not turn images into images"):
        translated("a.png", model=str(sampler), out="b.png")
    assert not Path("b.png").exists()


# Again, and after failures


def test_the_same_request_is_skipped_another_refused_and_overwritten_on_demand(stored: Path, here: Path):
    picture("in/a.png")
    picture("in/b.png", seed=1)
    translated("in", model=str(stored), out="o")
    before = {p.name: p.stat().st_mtime_ns for p in Path("o").iterdir()}
    assert [r["status"] for r in translated("in", model=str(stored), out="o")] == ["exists", "exists"]
    Path("o/a.png").unlink()
    assert [r["status"] for r in translated("in", model=str(stored), out="o")] == ["written", "exists"]
    assert Path("o/b.png").stat().st_mtime_ns == before["b.png"]
    # Another seed, another input of the same name, and a file that is not ours: all refused before any is written.
    kept = Path("o/a.png").read_bytes()
    with pytest.raises(UsageError, match="seed was '0' and is now '5'"):
        translated("in", model=str(stored), out="o", seed=5)
    picture("in/a.png", seed=9)
    with pytest.raises(UsageError, match="input_sha256 was"):
        translated("in", model=str(stored), out="o")
    picture("o/b.png", seed=3)
    with pytest.raises(UsageError, match="carries no ganctl request"):
        translated("in/b.png", model=str(stored), out="o")
    assert Path("o/a.png").read_bytes() == kept
    assert [r["status"] for r in translated("in", model=str(stored), out="o", overwrite=True)] == ["written"] * 2
    assert (pixels_of("o/a.png") == expected(stored, pixels_of("in/a.png"))).all()
    # The folder of results inside the folder of inputs is not translated again.
    translated("in", model=str(stored), out="in/done")
    assert len(translated("in", model=str(stored), out="in/done")) == 2


def test_one_bad_image_fails_alone_and_fail_fast_stops(stored: Path, here: Path):
    for i in range(6):
        picture(f"in/{i}.png", seed=i)
    whole = Path("in/1.png").read_bytes()
    Path("in/1.png").write_bytes(whole[:200])
    Path("in/4.png").write_bytes(b"no image")
    results: list[dict] = []
    request = TranslateRequest(model=str(stored), inputs=("in",), out="o", device="cpu")
    with pytest.raises(PartialError, match="2 of 6 inputs failed") as e:
        run(request, Reporter(result=lambda r: results.append(dict(r))))
    assert e.value.code == 3 and "'in/1.png'" in e.value.why and e.value.hint
    assert [r["status"] for r in results] == ["written", "failed", "written", "written", "failed", "written"]
    assert results[1]["error"] == "it is cut short" and "no image of a known format" in results[4]["error"]
    assert sorted(p.name for p in Path("o").iterdir()) == ["0.png", "2.png", "3.png", "5.png"]
    results.clear()
    fast = TranslateRequest(model=str(stored), inputs=("in",), out="f", device="cpu", fail_fast=True)
    with pytest.raises(PartialError, match="1 of 6 inputs failed; 4 not tried"):
        run(fast, Reporter(result=lambda r: results.append(dict(r))))
    assert [r["status"] for r in results] == ["written", "failed"]


def test_nan_in_the_weights_is_never_an_image(tiny: Tiny, here: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from ganctl.models.pix2pix import Generator

    bundle = tiny("pix2pix", **SMALL)
    picture("a.png")
    monkeypatch.setattr(Generator, "translate", lambda self, x, *, seed=0: torch.full_like(x, float("nan")))
    with pytest.raises(PartialError, match="NaN"):
        translated("a.png", model=str(bundle), out="b.png")
    assert not Path("b.png").exists()


def test_memory_that_runs_out_is_the_devices_error(tiny: Tiny, here: Path, monkeypatch: pytest.MonkeyPatch):
    from ganctl.models.pix2pix import Generator

    def short(self: object, x: object, *, seed: int = 0) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    picture("a.png")
    monkeypatch.setattr(Generator, "translate", short)
    with pytest.raises(GanctlError, match="do not fit into the memory of cpu") as e:
        translated("a.png", model=str(tiny("pix2pix", **SMALL)), out="b.png")
    assert e.value.code == 5 and "--size" in e.value.hint


# The command


def test_the_command_on_a_folder_with_two_bad_files(ganctl: Shell, noisy: Path):
    work = ganctl.folder
    for i in range(3):
        picture(work / f"in/{i}.jpg", seed=i)
    odd = work / "in" / os.fsdecode(b"sub/e\x1b[31m\xff.jpg")
    picture(odd, seed=5)
    (work / "in/bad.jpg").write_bytes(b"")
    os.mkfifo(work / "in/pipe.jpg")
    done = ganctl("translate", noisy, "in", "-o", "out", "--seed", 3)
    assert done.code == 3
    assert done.lines == ["out/0.png", "out/1.png", "out/2.png", "out/sub/e\x1b[31m\udcff.png"]
    assert all((work / line).is_file() for line in done.lines)
    assert "in/bad.jpg: it is empty (0 bytes)\n" in done.err and "\x1b" not in done.err
    assert "'in/pipe.jpg': it is not a regular file" in done.err
    assert (
        "error: 1 of 5 inputs failed\n  why: the first: cannot read image 'in/bad.jpg'" in done.err
        and "\n hint: " in done.err
    )
    again = ganctl("translate", noisy, "in", "-o", "out", "--seed", 3, "--json")
    assert again.code == 3
    rows = [json.loads(line) for line in again.lines]
    assert [r.get("status") for r in rows] == ["exists"] * 3 + ["failed", "exists", None]
    assert rows[0] | {"revision": ""} == {
        "path": "out/0.png", "input": "in/0.jpg", "seed": 3, "model": noisy.name, "revision": "", "status": "exists",
    }  # fmt: skip
    assert rows[-1]["error"]["kind"] == "partial"


def test_pipes_as_the_readme_has_them(ganctl: Shell, stored: Path):
    work = ganctl.folder
    pixels = picture(work / "a.jpg")
    code, out, err = ganctl.bytes("translate", stored, "-", "-o", "-", stdin=(work / "a.jpg").read_bytes())
    assert code == 0 and "Traceback" not in err
    got = read_image(out, name="b.png").pixels
    assert (got == expected(stored, pixels_of(work / "a.jpg"))).all() and got.shape == pixels.shape
    code, out, err = ganctl.bytes("translate", stored, "-", "-o", "-", "--format", "webp", stdin=b"no image")
    assert code == 3 and out == b"" and "-: it is no image of a known format" in err
    for i in range(2):
        picture(work / f"in/{i}/x{i}.jpg", seed=i)
    (work / "in/broken.jpg").write_bytes(b"x")
    command = f"{sys.executable} -m ganctl translate {stored} --from-file - -o out/"
    script = f"find in -name '*.jpg' | sort | {command} || [ $? -eq 3 ]"
    done = subprocess.run(["sh", "-c", script], cwd=work, env=ganctl.env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out/x0.png", "out/x1.png"] and "in/broken.jpg: " in done.stderr


def test_usage_errors_answer_without_torch(ganctl: Shell, stored: Path):
    picture(ganctl.folder / "a/x.png")
    picture(ganctl.folder / "b/x.png")
    for args, code, words in (
        (("a", "b"), 2, "both become"),
        (("a", "--batch-size", "0"), 2, "neither auto nor a whole number"),
        (("a", "--seed", "-1"), 2, "--seed"),
        (("a", "-o", "-", "--json"), 2, "both want stdout"),
    ):
        done = ganctl("translate", stored, *args, PYTHONPROFILEIMPORTTIME="1")
        assert done.code == code and words in done.err, done.err
        assert done.out == "" or json.loads(done.out)["error"]["kind"] == "usage"
        assert " torch\n" not in done.err
    plan = ganctl("translate", stored, "a", "--dry-run")
    assert plan.code == 0 and "batch_size:" in plan.out and not (ganctl.folder / "out").exists()


def test_killed_in_the_middle_and_run_again(ganctl: Shell, noisy: Path):
    work = ganctl.folder
    for i in range(60):
        picture(work / f"in/{i:02d}.png", (96, 96), seed=i)
    process = ganctl.start("translate", noisy, "in", "-o", "out", start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((work / "out").glob("*.png"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in (work / "out").glob("*.png")}
    assert 3 <= len(kept) < 60
    done = ganctl.ok("translate", noisy, "in", "-o", "out", "--json")
    rows = [json.loads(line) for line in done.lines]
    assert {r["path"] for r in rows if r["status"] == "exists"} == {f"out/{n}" for n in kept}
    results: list[dict] = []
    request = TranslateRequest(
        model=str(noisy), inputs=(str(work / "in"),), out=str(work / "undisturbed"), device="cpu"
    )
    run(request, Reporter(result=lambda r: results.append(dict(r))))
    names = [f"{i:02d}.png" for i in range(60)]
    assert sorted(p.name for p in (work / "out").iterdir()) == names == [Path(r["path"]).name for r in results]
    for name in names:
        assert (work / "out" / name).read_bytes() == (work / "undisturbed" / name).read_bytes()
        if name in kept:
            assert (work / "out" / name).stat().st_mtime_ns == kept[name]


def test_standard_input_with_a_default_name_is_skipped_too(ganctl: Shell, stored: Path):
    picture(ganctl.folder / "a.png")
    data = (ganctl.folder / "a.png").read_bytes()
    first = ganctl.ok("translate", stored, "-", stdin=data)
    assert first.lines == [f"out/{stored.name}/translate/stdin.png"]
    again = ganctl.ok("translate", stored, "-", "--json", stdin=data)
    row = json.loads(again.out)
    assert row["status"] == "exists" and row["input"] == "-"
    made = request_of(ganctl.folder / first.lines[0])
    assert made and made["input_sha256"] == hashlib.sha256(data).hexdigest()
