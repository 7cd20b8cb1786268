"""`ganctl fid` over the built-in LeNet: what it takes, prints, keeps, warns of and refuses. Offline, no Inception."""

import gzip
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.io.images import to_pixels
from ganctl.load import load
from ganctl.metrics import training
from tests.cli.fid_tools import fid, pictures, pixels
from tests.conftest import Shell, Tiny, shared_data


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a cache of its own for what runs in this process."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "stats").glob("*.npz"))


def idx(path: Path, array: np.ndarray) -> Path:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# The command line


def test_streams_and_stamp(ganctl: Shell) -> None:
    pictures(ganctl.folder / "real", pixels(24, 0))
    pictures(ganctl.folder / "fake", pixels(20, 1))
    done = ganctl.ok("fid", "--metrics", "fd-lenet", "real", "fake", "--no-progress")
    name, value = done.out.rstrip("\n").split("\t")
    assert (name, len(done.lines)) == ("fd-lenet", 1)
    assert value == f"{float(value):.4f}" and float(value) > 0
    # One protocol line, and the warning that so few images ask for.
    assert done.err.splitlines()[-1] == "fd-lenet, lenet-mnist, 28x28x1, 84 dimensions, 24 real, 20 fake images"
    assert done.err.startswith("warning: fd-lenet from 20 images\n    why: below 10000 ")
    assert done.err.count("warning:") == 1
    assert len(cached(ganctl.folder.parent / "home" / "cache")) == 1

    done = ganctl.ok("fid", "--metrics", "fd-lenet", "real/", "fake", "-q")
    assert (done.out, done.err) == (f"{value}\n", "")

    done = ganctl.ok("fid", "--metrics", "fd-lenet", "real", "fake", "--json", "--no-cache")
    stamp = json.loads(done.out)
    assert f"{stamp['fd-lenet']:.4f}" == value
    wanted = {
        "metric": "fd-lenet",
        "features": "lenet-mnist",
        "mode": "28x28x1",
        "dims": 84,
        "n_real": 24,
        "n_fake": 20,
        "sizes": {"real": {"28x28": 24}, "fake": {"28x28": 20}},
        "real": "real",
        "fake": "fake",
        "read": 44,
        "used": 44,
        "skipped": 0,
        "seed": 0,
        "mirror": False,
        "resolution": None,
    }
    assert {k: stamp[k] for k in wanted} == wanted
    assert len(stamp["weights_sha256"]) == 64
    assert stamp["ganctl"]
    assert len(stamp["warnings"]) == 1 and stamp["warnings"][0].startswith("fd-lenet from 20 images: below 10000")


def test_unreadable_images_are_each_named(ganctl: Shell) -> None:
    pictures(ganctl.folder / "real", pixels(8, 0))
    fake = pictures(ganctl.folder / "fake", pixels(10, 1))
    cut = (fake / "0003.png").read_bytes()
    (fake / "0003.png").write_bytes(cut[: len(cut) // 2])
    (fake / "0007.png").write_text("no picture")
    done = ganctl("fid", "--metrics", "fd-lenet", "real", "fake")
    assert (done.code, done.out) == (1, "")
    assert "fake/0003.png: it is cut short\n" in done.err
    assert "fake/0007.png: it is no image of a known format" in done.err
    assert "error: 2 of 18 images are unreadable\n  why: the first: 'fake/0003.png': " in done.err
    assert " hint: remove them, or score the others with --skip-bad" in done.err

    done = ganctl("fid", "--metrics", "fd-lenet", "real", "fake", "--skip-bad", "--json")
    assert done.code == 3
    *failed, stamp, error = map(json.loads, done.lines)
    assert [f["input"] for f in failed] == ["fake/0003.png", "fake/0007.png"]
    assert {f["status"] for f in failed} == {"failed"}
    assert (stamp["read"], stamp["used"], stamp["skipped"], stamp["n_fake"]) == (18, 16, 2, 8)
    assert error["error"]["kind"] == "partial"
    for name in ("0003.png", "0007.png"):
        (fake / name).unlink()
    assert stamp["fd-lenet"] == pytest.approx(fid(ganctl.folder / "real", fake).value, rel=1e-9)


def test_saved_statistics_stand_for_their_images(ganctl: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(ganctl.folder / "real", pixels(24, 0))
    pictures(ganctl.folder / "fake", pixels(24, 1))
    save = ("fid", "--metrics", "fd-lenet", "real", "--save-stats", "stats/real.npz")
    done = ganctl.ok(*save)
    assert done.out == "stats/real.npz\n"
    assert done.err.splitlines()[-1] == "fd-lenet, lenet-mnist, 28x28x1, 84 dimensions, 24 real images"
    with np.load(ganctl.folder / "stats" / "real.npz") as kept:
        assert kept["mu"].shape == (84,) and kept["sigma"].shape == (84, 84)
        assert (int(kept["n"]), str(kept["features"]), str(kept["mode"])) == (24, "lenet-mnist", "28x28x1")
    from_file = ganctl.ok("fid", "--metrics", "fd-lenet", "stats/real.npz", "fake", "-q").out
    monkeypatch.chdir(ganctl.folder)
    assert from_file == f"{fid('real', 'fake', cache=False).value:.4f}\n"
    # The same request again leaves the file; another one does not take its place.
    again = fid("real", save_stats="stats/real.npz")
    assert again.results == [{"path": "stats/real.npz", "status": "exists"}]
    other = fid("real", save_stats="stats/real.npz", mirror=True)
    assert other.error is not None and other.error.code == 2
    assert other.error.what == "refused to overwrite 'stats/real.npz'"
    assert "mirror was 'False' and is now 'True'" in other.error.why
    replaced = fid("real", "fake", save_stats="stats/real.npz", mirror=True, overwrite=True)
    assert replaced.stamp["n_real"] == 48
    assert fid("stats/real.npz", "fake").value == pytest.approx(replaced.value, rel=1e-9)
    # Of a model, the seeds and the weights that made it are part of the request.
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    assert fid(bundle, save_stats="model.npz", num=4).stamp["n"] == 4
    assert fid(bundle, save_stats="model.npz", num=4).stamp["status"] == "exists"
    for options in ({"num": 5}, {"num": 4, "seed": 1}):
        assert "refused to overwrite" in str(fid(bundle, save_stats="model.npz", **options).error)


def test_a_dry_run_touches_nothing_and_checks_all_the_same(ganctl: Shell) -> None:
    pictures(ganctl.folder / "real", pixels(2, 0))
    done = ganctl.ok("fid", "real", "real", "--dry-run", "--mode", "clean", "-n", 2)
    assert "mode: clean" in done.out and "real: real" in done.out
    assert not (ganctl.folder.parent / "home" / "cache").exists()
    assert ganctl("fid", "real", "nowhere", "--dry-run").code == 2


def test_offline_without_inception_names_the_command(ganctl: Shell) -> None:
    pictures(ganctl.folder / "real", pixels(2, 0))
    done = ganctl("fid", "real", "real", "--offline")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("error: inception-2015-12-05 not cached and offline; ")
    assert " hint: ganctl zoo pull inception-2015-12-05\n" in done.err
    done = ganctl("fid", "real", "real", "--json", HF_HUB_OFFLINE="1")
    assert done.code == 4
    assert json.loads(done.out)["error"]["hint"] == "ganctl zoo pull inception-2015-12-05"


# Sides


def test_every_kind_of_source_gives_the_same_value(here: Path, tiny: Tiny) -> None:
    array = pixels(30, 0)
    folder, fake = pictures(here / "real", array), pictures(here / "fake", pixels(30, 1))
    with zipfile.ZipFile("real.zip", "w") as z, tarfile.open("real.tar", "w") as t:
        for file in sorted(folder.iterdir()):
            z.write(file, f"deep/er/{file.name}")
            t.add(file, file.name)
    idx(here / "train-images-idx3-ubyte", array)
    idx(here / "images-idx3-ubyte.gz", array)
    (here / "mnist").mkdir()
    idx(here / "mnist" / "train-images-idx3-ubyte.gz", array)
    idx(here / "mnist" / "t10k-images-idx3-ubyte.gz", pixels(30, 2))
    wanted = fid(folder, fake, save_stats="real.npz").value
    assert wanted > 0.1
    for source in ("real.zip", "real.tar", "real.npz", "train-images-idx3-ubyte", "images-idx3-ubyte.gz", "mnist"):
        assert fid(source, fake).value == pytest.approx(wanted, rel=1e-9), source
        assert fid(fake, source).value == pytest.approx(wanted, rel=1e-6), source
    # Of a folder of IDX files, the training images; the stamp says which.
    assert fid("mnist", fake).stamp["real"] == "mnist/train-images-idx3-ubyte.gz"
    # A model may stand on either side: a bundle, a run, and the same images as files.
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    (here / "run" / "snapshots").mkdir(parents=True)
    shutil.copytree(bundle, here / "run" / "snapshots" / "000100")
    net = load(str(bundle), device="cpu").net
    pictures(here / "samples", to_pixels(net.sample(net.prior(range(5, 25))), net.x.range)[..., 0])
    of_bundle = fid(folder, bundle, num=20, seed=5)
    assert of_bundle.stamp["n_fake"] == 20 and len(of_bundle.stamp["revision_fake"]) == 12
    for other in (here / "run", here / "samples"):
        assert fid(folder, other, num=20, seed=5).stamp["fake"] == str(other)
        assert fid(folder, other, num=None if other.name == "samples" else 20, seed=5).value == pytest.approx(
            of_bundle.value, rel=1e-6
        )
    same = fid(here / "samples", bundle, num=20, seed=5)
    assert abs(same.value) < 1e-9 * 1000
    assert any(w.startswith("REAL and FAKE hold the same images") for w in same.warnings)
    assert fid(bundle, here / "run", num=20).value == pytest.approx(0, abs=1e-6)


def test_what_is_no_side_is_refused_before_work(here: Path, tiny: Tiny) -> None:
    real = pictures(here / "real", pixels(3, 0))
    (here / "notes").mkdir()
    for name in ("a.txt", "b.TXT", "c.npy"):
        (here / "notes" / name).touch()
    one = pictures(here / "one", pixels(1, 0))
    idx(here / "t10k-labels-idx1-ubyte", np.zeros(9, np.uint8))
    idx(here / "floats.idx", np.zeros((3, 2), np.uint8))
    translator = tiny("pix2pix", resolution=16, ngf=4, ndf=4, num_downs=4, n_layers=1)
    for fake, code, text, hint in (
        (here / "notes", 2, "it holds 2 .txt, 1 .npy", "images end in"),
        (one, 2, "it holds 1 image, a distance needs at least 2", "pass a folder"),
        (here / "t10k-labels-idx1-ubyte", 2, "it holds uint8 of shape (9,), not uint8 images", ""),
        (here / "notes" / "a.txt", 2, "it is one file, a distance needs at least 2", "pass a folder"),
        (here / "floats.idx", 2, "it holds uint8 of shape (3, 2), not uint8 images", ""),
        ("reel", 2, "no such path or model 'reel'", "did you mean real?"),
        ("stats:ffhq", 2, "publishes no reference statistics", "--save-stats"),
        ("x" * 300, 2, "File name too long", ""),
        ("~nobody-of-that-name/x", 2, "no such path or model", ""),
        ("", 2, "it is no path and no model", ""),
        ("a\0b", 2, "it is no path and no model", ""),
        ("lenet-mnist", 2, "its task is classify: it draws no images", "--task sample"),
        (translator, 2, "pix2pix draws no images from noise", "a folder of its results"),
        ("data/of/somebody", 2, "no such path or model", "ganctl zoo list"),
        ("somebody/model", 4, "not cached and offline", "ganctl zoo pull somebody/model"),
    ):
        heard = fid(real, fake)
        assert heard.error is not None, fake
        assert heard.error.code == code, heard.error
        assert text in heard.error.message and hint in heard.error.hint, (heard.error.message, heard.error.hint)
        assert not heard.results
    (here / "dcgan-mnist").mkdir()
    heard = fid("dcgan-mnist", one)
    assert (
        heard.warnings[0]
        == "'dcgan-mnist' is taken as the model | there is a path of that name too | write ./dcgan-mnist"
    )


def test_options_that_cannot_work_are_refused(here: Path, tiny: Tiny) -> None:
    real = pictures(here / "real", pixels(3, 0))
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    fid(real, save_stats="real.npz")
    for options, text in (
        ({"metrics": "fidd"}, "unknown metric 'fidd'. known: fid, "),
        ({"metrics": " , "}, "no metric is named"),
        ({"metrics": "fid5k"}, "that id fixes a protocol of training"),
        ({"metrics": "fid", "mode": "tensorflow"}, "unknown mode 'tensorflow'"),
        ({"metrics": "fid", "dims": 100}, "features of 64, 192, 768, 2048"),
        ({"mode": "clean"}, "cannot use --mode with fd-lenet"),
        ({"dims": 64}, "cannot use --dims with fd-lenet"),
        ({"num": 1}, "cannot use -n 1. a distance needs at least 2 images"),
        ({"batch_size": 0}, "cannot use --batch-size 0"),
        ({"workers": -1}, "cannot use --workers -1"),
        ({"resolution": 0}, "cannot use --resolution 0"),
        ({"seed": -1}, "cannot use --seed -1"),
        ({"fake": str(bundle), "seed": 2**32 - 2, "num": 10}, "need seeds beyond 4294967295"),
        ({"fake": None}, "a distance needs two sides. FAKE is missing"),
        ({"save_stats": "x.txt"}, "the name must end in .npz"),
        ({"save_stats": "x.npz", "metrics": "fid,fd-lenet"}, "a file holds statistics of one network"),
        ({"save_stats": str(real / "0000.png" / "x.npz")}, "is not a folder"),
        ({"real": "real.npz", "save_stats": "x.npz"}, "'real.npz' holds statistics already"),
        ({"real": "real.npz", "mirror": True}, "cannot use --mirror. 'real.npz' is no folder"),
        ({"real": "real.npz", "metrics": "fd-lenet-fashion"}, "they are of lenet-mnist, not lenet-fashion-mnist"),
        ({"real": "real.npz", "metrics": "fid"}, "they are features of lenet-mnist, this run uses inception"),
        ({"real": "real.npz", "resolution": 14}, "their --resolution differ: none and 14"),
        ({"device": "gpu"}, "it is none of auto, cpu, cuda"),
    ):
        heard = fid(**{"real": str(real), "fake": str(real), **options})
        assert heard.error is not None and heard.error.code == 2, options
        assert text in heard.error.message, heard.error.message
    assert fid("real.npz", real, metrics="fid").error.hint == "pass --metrics fd-lenet"  # type: ignore[union-attr]


# Warnings


def test_what_is_odd_about_the_sides_is_said_in_text_and_json(here: Path) -> None:
    array = pixels(12, 0)
    grey = pictures(here / "grey", array)

    def warned(real: Path, fake: Path, **options: object) -> list[str]:
        heard = fid(real, fake, **options)
        assert len(heard.stamp["warnings"]) == len(heard.warnings)
        few = "fd-lenet from 12 images | below 10000 the value is biased upwards, and only comparable at equal numbers"
        assert any(w.startswith(few) for w in heard.warnings)
        return [w for w in heard.warnings if " images | below" not in w]

    assert warned(grey, pictures(here / "others", pixels(12, 7))) == []
    (found,) = warned(grey, pictures(here / "again", np.concatenate([array[:5], pixels(7, 8)])))
    assert found.startswith(f"REAL and FAKE share images | 5 of '{here / 'again'}' are in '{grey}' too, pixel ")
    assert warned(grey, grey) == [
        "REAL and FAKE are the same | both are '" + str(grey) + "' | the distance is zero by definition"
    ]
    assert warned(grey, shutil.copytree(grey, here / "copy"))[0].startswith("REAL and FAKE hold the same images | ")
    (found,) = warned(grey, pictures(here / "jpeg", array, "jpg"))
    assert found.startswith("the two sides are stored differently | REAL is mostly png, FAKE mostly jpeg; ")
    mixed = pictures(pictures(here / "mixed", pixels(8, 9)), pixels(4, 1, (20, 32)), first=8)
    (found,) = warned(grey, mixed)
    assert found.startswith(f"'{mixed}' has images of 2 sizes | 8 of 28x28, 4 of 32x20; each is resized to the 28x28")
    assert warned(grey, mixed, resolution=28) == []
    large = pictures(here / "large", pixels(12, 1, (56, 56)))
    assert [w.split(" | ")[0] for w in warned(grey, large)] == [
        f"'{large}' is resized",
        "the two sides have different sizes",
    ]
    assert warned(grey, large, resolution=28) == []
    colour = pictures(pictures(here / "colour", pixels(10, 2, channels=3)), pixels(2, 3, channels=4), first=10)
    (found,) = warned(grey, colour)
    rule = "10 rgb images were turned to luma, 2 rgba images were laid over white"
    assert found == f"'{colour}' was converted to grey | {rule} | "
    deep = pictures(here / "deep", pixels(11, 10))
    Image.fromarray(pixels(1, 11)[0].astype(np.uint16) * 257).save(deep / "0011.png")
    (found,) = warned(grey, deep)[-1:]
    assert found == f"'{deep}' has odd images | 1 image was read by this rule: 16 bits reduced to 8 | "
    (deep / "link.png").symlink_to("nowhere")
    assert warned(grey, deep)[0] == f"left out 'link.png' of '{deep}' | it is a broken link | "


# Numbers


def test_the_value_depends_on_images_alone(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(40, 0)), pictures(here / "fake", pixels(33, 1))
    wanted = fid(real, fake).value
    for options in ({"batch_size": 1, "workers": 0}, {"batch_size": 7, "workers": 5}, {"cache": False}):
        assert fid(real, fake, **options).value == pytest.approx(wanted, rel=1e-4)
    assert fid(real, fake, cache=False).value == fid(real, fake, cache=False, workers=5).value
    mirrored = fid(real, fake, mirror=True)
    assert mirrored.stamp["n_real"] == 80 and mirrored.value != wanted
    pictures(real, np.stack([np.asarray(Image.open(f))[:, ::-1] for f in sorted(real.iterdir())]), first=40)
    assert fid(real, fake).value == pytest.approx(mirrored.value, rel=1e-6)
    # -n draws from each side by the seed.
    drawn = [fid(real, fake, num=20, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].value == drawn[1].value != drawn[2].value
    assert drawn[0].stamp["n_real"] == drawn[0].stamp["n_fake"] == 20
    assert fid(real, fake, num=1000).stamp["n_real"] == 80
    assert fid(real, fake, resolution=14).value != wanted


def test_the_real_side_is_remembered_until_it_changes(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(10, 0)), pictures(here / "fake", pixels(10, 1))
    cache = here.parent / "own-cache"
    first = fid(real, fake).value
    (kept,) = cached(cache)
    mark = kept.stat().st_mtime_ns
    assert fid(real, fake).value == first
    assert kept.stat().st_mtime_ns == mark
    kept.write_bytes(kept.read_bytes()[:-100])  # a damaged memory is made again
    assert fid(real, fake).value == first
    fid(real, fake, mirror=True)
    fid(real, fake, metrics="fd-lenet-fashion")
    fid(real, fake, metrics="fd-lenet", num=5)
    assert len(cached(cache)) == 4
    pictures(real, pixels(1, 9), first=10)
    changed = fid(real, fake)
    assert changed.stamp["n_real"] == 11 and changed.value != first
    shutil.rmtree(cache)
    fid(real, fake, cache=False)
    assert not cached(cache)
    cache.mkdir(exist_ok=True)
    (cache / "stats").write_text("in the way")
    assert fid(real, fake).value == changed.value


def test_two_metrics_in_one_pass(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(10, 0)), pictures(here / "fake", pixels(10, 1))
    both = fid(real, fake, metrics="fd-lenet,fd-lenet-fashion,fd-lenet")
    assert [r["metric"] for r in both.results] == ["fd-lenet", "fd-lenet-fashion"]
    assert both.value == pytest.approx(fid(real, fake, metrics="fd-lenet-fashion").value, rel=1e-9)
    assert len(both.notes) == 2


def test_bad_images_stop_a_score_wherever_they_are(here: Path, tiny: Tiny) -> None:
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    real = pictures(here / "real", pixels(6, 0))
    for name in ("0001.png", "0002.png", "0004.png", "0005.png"):
        (real / name).write_bytes(b"")
    # No model is sampled for a score that is lost already.
    heard = fid(real, bundle)
    assert heard.error is not None and heard.error.code == 1
    assert heard.error.what == "4 of 6 images are unreadable"
    assert [r["input"] for r in heard.results] == [str(real / f"000{i}.png") for i in (1, 2, 4, 5)]
    heard = fid(real, bundle, fail_fast=True, workers=0)
    assert heard.error is not None and heard.error.code == 1
    assert len(heard.results) == 1 and "'" + str(real / "0001.png") + "': it is empty" in heard.error.why
    (real / "0003.png").write_bytes(b"GIF89a")
    heard = fid(real, real, skip_bad=True)
    assert heard.error is not None and heard.error.code == 2
    assert "1 of its 6 images can be read, a distance needs at least 2" in heard.error.message
    assert not cached(here.parent / "own-cache")


def test_training_measures_what_the_command_does(here: Path) -> None:
    real, fake = pixels(40, 0)[..., None], pixels(35, 1)[..., None]
    wanted = fid(pictures(here / "real", real[..., 0]), pictures(here / "fake", fake[..., 0])).value
    stats = training.prepare("fd-lenet", np.split(real, [7, 30]))
    (found,) = training.score("fd-lenet", iter(np.split(fake, [3])), stats)
    assert (found.name, found.value) == ("fd-lenet", pytest.approx(wanted, rel=1e-6))


def test_on_real_digits_near_is_near_and_far_is_far(here: Path) -> None:
    from ganctl.io.idx import read_idx

    digits = read_idx(shared_data("mnist/t10k-images-idx3-ubyte.gz"))[:2000]
    garments = shared_data("fashion_mnist/t10k-images-idx3-ubyte.gz")
    halves = [idx(here / f"{name}-idx3-ubyte", digits[k::2]) for k, name in enumerate("ab")]
    inverted = idx(here / "inverted-idx3-ubyte", 255 - digits[1::2])
    noise = idx(here / "noise-idx3-ubyte", np.random.default_rng(0).integers(0, 256, digits[1::2].shape, np.uint8))
    near, other, far, farther = (
        fid(halves[0], side, num=1000).value for side in (halves[1], garments, inverted, noise)
    )
    assert 0 < near < 12
    assert min(other, far, farther) > 20 * near
