"""`ganctl fid --metrics`: every kind of score through the workflow, alone and together, equal to its own function."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.load import load
from ganctl.metrics import perceptual, training
from ganctl.metrics.catalog import METRICS, known
from ganctl.metrics.inception_score import inception_score
from ganctl.metrics.kid import kernel_distance
from ganctl.metrics.path_length import named_path_length
from ganctl.metrics.precision_recall import density_coverage, precision_recall
from ganctl.metrics.statistics import read_stats
from ganctl.metrics.two_sample import two_sample
from tests.cli.fid_tools import fid, pictures, pixels
from tests.conftest import Shell, Tiny, golden
from tests.golden import lpips_weights

EVERY = "fd-lenet,kid-lenet,is-lenet,pr-lenet,dc-lenet,c2st-lenet"
BUNDLE = {"resolution": 16, "channels": 1, "ngf": 4, "ndf": 4, "z_dim": 8}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_the_command_prints_a_line_a_number(ganctl: Shell) -> None:
    pictures(ganctl.folder / "real", pixels(40, 0))
    pictures(ganctl.folder / "fake", pixels(40, 1))
    done = ganctl.ok("fid", "real", "fake", "--metrics", EVERY, "--kid-subset-size", 20, "--no-progress")
    names = [line.split("\t")[0] for line in done.lines]
    assert names == [
        "fd-lenet",
        "kid-lenet",
        "is-lenet",
        "precision-lenet",
        "recall-lenet",
        "density-lenet",
        "coverage-lenet",
        "c2st_log_loss-lenet",
        "c2st_auc-lenet",
    ]
    assert [line.count("\t") for line in done.lines] == [1, 2, 2, 1, 1, 1, 1, 1, 1]
    # One warning for all of them, one line of protocol for each.
    assert done.err.count("warning:") == 1
    assert (
        "warning: scores from 40 images\n    why: below 10000, fd-lenet is biased upwards; kid-lenet is un" in done.err
    )
    assert done.err.count(", lenet-mnist, 28x28x1, 84 dimensions, ") == 6
    bare = ganctl.ok("fid", "real", "fake", "--metrics", EVERY, "--kid-subset-size", 20, "-q")
    assert bare.lines == [line.split("\t")[1] for line in done.lines] and bare.err == ""


def test_scores_are_those_of_the_functions_and_files_stand_for_images(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(60, 0)), pictures(here / "fake", pixels(50, 1))
    options = {"kid_subsets": 7, "kid_subset_size": 20}
    both = fid(real, fake, metrics=EVERY, **options)
    values = {r["metric"]: r[r["metric"]] for r in both.results}
    spreads = {r["metric"]: r["std"] for r in both.results if "std" in r}
    for side, name in ((real, "real.npz"), (fake, "fake.npz")):
        kept = fid(side, metrics=EVERY, save_stats=name)
        assert kept.stamp["status"] == "written"
    a, b = (read_stats(name) for name in ("real.npz", "fake.npz"))
    assert a.feats is not None and b.feats is not None and (len(a.feats), len(b.feats)) == (60, 50)
    kid = kernel_distance(a.feats, b.feats, subsets=7, subset_size=20)
    assert (values["kid-lenet"], spreads["kid-lenet"]) == kid
    assert (values["precision-lenet"], values["recall-lenet"]) == precision_recall(a.feats, b.feats)
    assert (values["density-lenet"], values["coverage-lenet"]) == density_coverage(a.feats, b.feats)
    assert (values["c2st_log_loss-lenet"], values["c2st_auc-lenet"]) == two_sample(a.feats, b.feats)
    with torch.inference_mode():
        logits = load("lenet-mnist", device="cpu").net.head(torch.from_numpy(b.feats)).numpy()
    assert (values["is-lenet"], spreads["is-lenet"]) == pytest.approx(inception_score(logits), rel=1e-9)
    for sides in (("real.npz", fake), (real, "fake.npz"), ("real.npz", "fake.npz")):
        found = fid(*sides, metrics=EVERY, **options)
        assert {r["metric"]: r[r["metric"]] for r in found.results} == pytest.approx(values, rel=1e-9)
    # The cached real side keeps its features where they were needed, and is made again where they were not kept.
    assert fid(real, fake, metrics="fd-lenet").value == values["fd-lenet"]
    assert fid(real, fake, metrics="pr-lenet").results[0]["precision-lenet"] == values["precision-lenet"]


def test_one_side_is_enough_for_scores_of_generated_images(here: Path, tiny: Tiny) -> None:
    fake = pictures(here / "fake", pixels(40, 1))
    alone = fid(fake, metrics="is-lenet")
    stamp = alone.stamp
    assert (stamp["n_real"], stamp["real"], stamp["n_fake"], stamp["fake"]) == (None, None, 40, str(fake))
    beside = fid(pictures(here / "real", pixels(12, 0)), fake, metrics="is-lenet")
    assert beside.value == alone.value
    assert beside.warnings[0].startswith(f"'{here / 'real'}' is not looked at | is-lenet is about generated images")
    assert beside.stamp["read"] == 40
    assert 1 <= fid(tiny("dcgan", **BUNDLE), metrics="is-lenet", num=20).value <= 10
    # Skipped images are missing from their split.
    (fake / "0011.png").write_bytes(b"")
    assert fid(fake, metrics="is-lenet", skip_bad=True).error is not None
    assert len(fid(fake, metrics="is-lenet", skip_bad=True).results) == 2


def test_odd_sets_give_numbers_or_sentences(here: Path) -> None:
    constant = pictures(here / "constant", np.full((15, 28, 28), 128, np.uint8))
    other = pictures(here / "other", np.full((15, 28, 28), 7, np.uint8))
    few = pictures(here / "few", pixels(4, 0))
    normal = pictures(here / "normal", pixels(15, 1))
    for sides in ((constant, other), (constant, constant), (normal, constant), (constant, normal), (normal, normal)):
        found = fid(*sides, metrics=EVERY)
        assert found.error is None and len(found.results) == 9
        assert all(isinstance(r[r["metric"]], float) and np.isfinite(r[r["metric"]]) for r in found.results)
    same = {r["metric"]: r[r["metric"]] for r in fid(normal, normal, metrics=EVERY).results}
    assert same["precision-lenet"] == same["recall-lenet"] == same["coverage-lenet"] == 1
    assert abs(same["fd-lenet"]) < 1e-6 and same["c2st_auc-lenet"] == pytest.approx(0.5, abs=0.05)
    for metrics, sides, text in (
        ("is-lenet", (few,), "needs at least one image in each of 10 splits; there are 4"),
        ("dc-lenet", (normal, few), "needs at least"),
        ("pr-lenet", (few, pictures(here / "three", pixels(3, 3))), "needs at least"),
    ):
        heard = fid(*sides, metrics=metrics)
        assert heard.error is not None and heard.error.code == 2 and text in heard.error.message, heard.error
        assert not heard.results


def test_the_path_length_of_a_model(here: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    file = golden("lpips.safetensors")
    missing = fid(tiny("dcgan", **BUNDLE), metrics="ppl2_zend", num=4)
    assert missing.error is not None and missing.error.code == 4
    assert missing.error.hint == "ganctl zoo pull vgg16-imagenet"
    # VGG-16 is half a gigabyte: SqueezeNet, with the recorded weights, stands in for it.
    lpips = lpips_weights.network(file, "squeeze")
    monkeypatch.setattr(perceptual, "open_lpips", lambda net, **_: (lpips, "digest"))
    bundle = tiny("dcgan", **{**BUNDLE, "resolution": 32})
    found = fid(bundle, metrics="ppl2_zend,is-lenet", num=12, seed=3)
    path, score = found.results
    assert (path["metric"], path["features"], path["weights_sha256"]) == ("ppl2_zend", "lpips-vgg", "digest")
    net = load(str(bundle), device="cpu").net
    wanted = named_path_length(
        "ppl2_zend", net, lpips.distance, n=12, seed=3, batch_size=64, device=torch.device("cpu")
    )
    assert (path["ppl2_zend"], path["std"]) == wanted and wanted[0] > 0
    assert score["metric"] == "is-lenet" and score["n_fake"] == 12
    assert found.notes[0] == "ppl2_zend, lpips-vgg, 12 pairs of images"
    for metric, side, text in (
        ("ppl2_wend", bundle, "the network has no space W"),
        ("ppl_zend", pictures(here / "fake", pixels(3, 1)), "it asks a generator, not images"),
    ):
        heard = fid(side, metrics=metric, num=3)
        assert heard.error is not None and heard.error.code == 2 and text in heard.error.message


def test_what_does_not_fit_is_refused_before_work(here: Path) -> None:
    real = pictures(here / "real", pixels(12, 0))
    fid(real, save_stats="moments.npz")
    again = "make them again with: ganctl fid IMAGES --metrics kid-lenet --save-stats FILE.npz"
    for options, text, hint in (
        ({"real": "moments.npz", "metrics": "kid-lenet"}, "they are moments alone, and it needs the features", again),
        ({"fake": "moments.npz", "metrics": "is-lenet"}, "they are moments alone", ""),
        ({"metrics": "psnr"}, "cannot use --metrics psnr. it compares images pair by pair", "add --pairs"),
        ({"metrics": "kid50k_full"}, "that id fixes a protocol of training", ""),
        ({"metrics": "kdi"}, "unknown metric 'kdi'", "did you mean kid"),
        ({"metrics": "is", "dims": 64}, "class logits come from the last features", ""),
        ({"metrics": "pr-vgg", "mode": "clean"}, "cannot use --mode with pr-vgg", ""),
        ({"metrics": "fd-lenet", "dtype": "bf16"}, "cannot use --dtype bf16 with fd-lenet", ""),
        ({"kid_subset_size": 1}, "cannot use --kid-subset-size 1", ""),
        ({"kid_subsets": 0}, "cannot use --kid-subsets 0", ""),
        ({"metrics": "is-lenet", "save_stats": "x.npz", "fake": None, "real": "moments.npz"}, "statistics already", ""),
        ({"report": "x.txt"}, "the name must end in .html", ""),
    ):
        heard = fid(**{"real": str(real), "fake": str(real), **options})
        assert heard.error is not None and heard.error.code == 2, (options, heard.error)
        assert text in heard.error.message and hint in heard.error.hint, heard.error
    assert {"fid", "kid", "is", "pr", "dc", "c2st", "pr-vgg", "ppl2_wend"} <= set(known())
    followed = set(known(training=True))
    assert {"fid5k", "kid50k_full", "pr50k3_full", "is50k", "ppl2_wend", "pr-lenet", "eqt50k_int", "eqr"} <= followed
    assert not {"fid", "pr-vgg"} & followed


@pytest.mark.parametrize("name", ["kid-lenet", "is-lenet", "pr-lenet"])
def test_training_takes_the_same_scores(here: Path, name: str) -> None:
    real, fake = pixels(50, 0)[..., None], pixels(40, 1)[..., None]
    sides = pictures(here / "real", real[..., 0]), pictures(here / "fake", fake[..., 0])
    wanted = {r["metric"]: r[r["metric"]] for r in fid(*sides, metrics=name).results}
    kept = training.prepare(name, np.split(real, [7, 30]))
    assert (kept is None) == (name == "is-lenet")
    found = training.score(name, iter(np.split(fake, [3])), kept)
    assert {s.name: s.value for s in found} == pytest.approx(wanted, rel=1e-6)
    assert METRICS[name].higher_is_better == (name != "kid-lenet")
