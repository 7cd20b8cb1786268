"""`ganctl invert`: finds the latent of a picture, keeps what is done, and fails image by image."""

import errno
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl import catalog
from ganctl.errors import GanctlError, PartialError, UsageError
from ganctl.io import hub
from ganctl.io.arrays import read_npz, write_npz
from ganctl.io.bundle import write_bundle
from ganctl.io.images import read_image, write_image
from ganctl.io.progress import Reporter
from ganctl.io.video import read_video
from ganctl.load import load
from ganctl.metrics import perceptual
from ganctl.workflows.invert import InvertReport, InvertRequest, pick_loss, resolve, run
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.cli.test_sample_files import FullDisk, bytes_of, pixels
from tests.conftest import Shell, Tiny, golden
from tests.golden import lpips_weights

CONFIG = {"resolution": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}


@pytest.fixture
def dcgan(lively: Tiny) -> Path:
    return lively("dcgan", **CONFIG)


@pytest.fixture
def photos(dcgan: Path, tmp_path: Path) -> Path:
    """Three pictures of the network's own."""
    sample(SampleRequest(model=str(dcgan), seeds="11-13", out=str(tmp_path / "photos"), device="cpu"))
    return tmp_path / "photos"


@pytest.fixture
def request_(dcgan: Path, photos: Path, tmp_path: Path) -> InvertRequest:
    return InvertRequest(
        model=str(dcgan), inputs=(str(photos),), out=str(tmp_path / "inv"), steps=120, device="cpu"
    )  # fmt: skip


def done(request: InvertRequest) -> tuple[InvertReport, list[Mapping[str, Any]]]:
    results: list[Mapping[str, Any]] = []
    return run(request, Reporter(result=results.append)), results


def test_it_recovers_its_own_pictures_and_keeps_what_is_there(request_, dcgan, tmp_path):
    report, results = done(request_)
    assert report == InvertReport(written=3, exists=0, failed=0)
    keys = ["path", "input", "model", "revision", "psnr", "loss", "picture", "status"]
    for seed, result in zip((11, 12, 13), results, strict=True):
        assert list(result) == keys and result["path"] == str(tmp_path / f"inv/seed00{seed}.npz")
        # Rounding to 8 bits alone leaves 58 dB.
        assert result["psnr"] > 55
        found = read_npz(tmp_path / f"inv/seed00{seed}.npz")
        assert set(found) == {"z", "loss", "psnr", "model", "revision", "request"} and found["z"].shape == (8,)
        assert (str(found["model"]), str(found["revision"])) == ("tiny-dcgan", result["revision"])
        assert abs(10 * np.log10(4 / float(found["loss"])) - result["psnr"]) < 0.01
    latents = tuple(str(tmp_path / f"inv/seed00{s}.npz") for s in (11, 12, 13))
    sample(SampleRequest(model=str(dcgan), latents=latents, out=str(tmp_path / "back"), device="cpu"))
    for s in (11, 12, 13):
        assert (pixels(tmp_path / f"back/seed00{s}.png") == pixels(tmp_path / f"inv/seed00{s}-rec.png")).all()

    whole = bytes_of(tmp_path / "inv")
    (tmp_path / "inv/seed0012.npz").unlink()
    (tmp_path / "inv/seed0013-rec.png").unlink()
    report, results = done(request_)
    assert [r["status"] for r in results] == ["exists", "written", "written"] and results[0]["psnr"] > 55
    assert bytes_of(tmp_path / "inv") == whole
    with pytest.raises(UsageError, match="steps was '120' and is now '20'"):
        run(replace(request_, steps=20))
    assert bytes_of(tmp_path / "inv") == whole
    assert done(replace(request_, steps=20, overwrite=True))[0].written == 3


def test_a_file_of_somebody_else_is_not_overwritten(request_, tmp_path):
    (tmp_path / "inv").mkdir()
    (tmp_path / "inv/seed0012-rec.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="refused to overwrite"):
        run(request_)
    assert bytes_of(tmp_path / "inv") == {"seed0012-rec.png": b"mine"}


def test_only_what_the_mask_leaves_black_counts(request_, photos, tmp_path):
    photo = pixels(photos / "seed0011.png").copy()
    whole = photo.copy()
    photo[:, 10:] = 255
    mask = np.zeros_like(photo)
    mask[:, 10:] = 255
    write_image(tmp_path / "hole.png", photo)
    write_image(tmp_path / "mask.png", mask)
    hole = replace(request_, inputs=(str(tmp_path / "hole.png"),), steps=300)
    assert done(replace(hole, out=str(tmp_path / "plain")))[1][0]["psnr"] < 25
    masked = replace(hole, mask=str(tmp_path / "mask.png"))
    assert done(masked)[1][0]["psnr"] > 50
    painted = pixels(tmp_path / "inv/hole-rec.png")
    assert np.abs(painted.astype(int) - whole).mean() < 12 < np.abs(photo.astype(int) - whole).mean()
    assert done(masked)[0].exists == 1
    write_image(tmp_path / "white.png", np.full_like(mask, 255))
    with pytest.raises(UsageError, match="white everywhere"):
        run(replace(hole, mask=str(tmp_path / "white.png"), out=str(tmp_path / "c")))


def test_batches_steps_films_and_starts(request_, photos, tmp_path):
    alone = done(replace(request_, steps=12))[1]
    batch = done(replace(request_, steps=12, batch_size=3, out=str(tmp_path / "batch")))[1]
    for a, b in zip(alone, batch, strict=True):
        assert abs(a["psnr"] - b["psnr"]) < 0.05
    start = replace(request_, inputs=(str(photos / "seed0011.png"),), steps=1, out=str(tmp_path / "start"))
    assert done(start)[1][0]["psnr"] < 40
    run(replace(request_, inputs=start.inputs, out=str(tmp_path / "long")))
    init = replace(start, init=str(tmp_path / "long/seed0011.npz"), out=str(tmp_path / "init"))
    assert done(init)[1][0]["psnr"] > 55
    filmed = replace(start, steps=10, save_every=5, out=str(tmp_path / "film"))
    run(filmed)
    names = ["seed0011-rec.png", "seed0011-step00005.png", "seed0011-step00010.png", "seed0011.npz"]
    assert sorted(bytes_of(tmp_path / "film")) == names
    pytest.importorskip("av")
    # What is asked for in addition is made, though the latent is there.
    assert done(replace(filmed, save_video=True))[0].written == 1
    film = list(read_video(tmp_path / "film/seed0011.mp4").frames)
    assert len(film) == 11 and film[0].shape == (16, 32, 3)
    assert done(replace(filmed, save_video=True))[0].exists == 1


def test_lpips_is_made_small(request_, tmp_path, monkeypatch):
    file = golden("lpips.safetensors")
    # The real network, of random weights; where the published ones come from is tests/zoo/test_backbones.py.
    monkeypatch.setattr(perceptual, "open_lpips", lambda net, **_: (lpips_weights.network(file, net), "sha"))
    seen = {}
    for loss, steps in (("l2", 1), ("lpips", 1), ("lpips", 25), ("lpips+l2", 4)):
        one = (f"{request_.inputs[0]}/seed0011.png",)
        run_of = replace(request_, loss=loss, steps=steps, inputs=one, out=str(tmp_path / f"{loss}{steps}"))
        noted: list[str] = []
        results: list[Mapping[str, Any]] = []
        assert run(run_of, Reporter(note=noted.append, result=results.append)).written == 1
        assert noted[0].startswith(f"loss: {loss.replace('+l2', ' over VGG-16, plus')}")
        (seen[loss, steps],) = results
        assert run(run_of, Reporter(result=results.append)).exists == 1
        assert results[1]["loss"] == seen[loss, steps]["loss"]
        assert results[1].get("lpips") == seen[loss, steps].get("lpips")
    assert "lpips" not in seen["l2", 1]
    assert seen["lpips", 1]["loss"] == seen["lpips", 1]["lpips"] > 10 * seen["lpips", 25]["lpips"]
    both = seen["lpips+l2", 4]
    error = 4 / 10 ** (both["psnr"] / 10)
    assert both["loss"] == pytest.approx(both["lpips"] + error, rel=1e-3)
    saved = read_npz(tmp_path / "lpips25/seed0011.npz")
    assert saved["lpips"] == saved["loss"] and json.loads(str(saved["request"]))["loss"] == "lpips"


def test_which_loss_is_chosen(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    small, large, tiny_one = (
        load(str(tiny("dcgan", **{**CONFIG, "resolution": side, "channels": 3})), device="cpu") for side in (32, 64, 8)
    )
    request = InvertRequest(model="any")

    def chosen(model, **change):
        return pick_loss(replace(request, **change), model, "optimize")

    assert chosen(small) == ("l2", "l2, the mean squared error (LPIPS was learned on RGB pictures of 64 px)")
    assert chosen(large) == ("l2", "l2, the mean squared error (for LPIPS: ganctl zoo pull vgg16-imagenet)")
    entry = catalog.entry("vgg16-imagenet")
    states = {"features": {"features.0.bias": torch.zeros(64)}}
    write_bundle(hub.upstream_bundle(entry), model=entry.model, config={}, states=states, card={})
    assert chosen(large)[0] == "lpips" and chosen(small)[0] == "l2"
    assert chosen(small, loss="lpips")[0] == "lpips" and chosen(large, loss="l2")[0] == "l2"
    with pytest.raises(UsageError, match="cannot use --loss lpips") as e:
        chosen(tiny_one, loss="lpips+l2")
    assert e.value.why == "pictures have 8 px and 3 channels, LPIPS needs 16 px and grey or RGB"


def test_autoencoders_encode(tiny, request_, tmp_path):
    vae = str(tiny("vae", resolution=16, z_dim=4, hidden=[8]))
    warned: list[tuple[str, str, str]] = []
    noted: list[str] = []
    encoded = replace(request_, model=vae, save_every=5)
    run(encoded, Reporter(warn=lambda *w: warned.append(w), note=noted.append))
    assert len(warned) == 1 and "no search to show" in warned[0][1] and not noted
    found = read_npz(tmp_path / "inv/seed0011.npz")
    assert found["z"].shape == (4,) and json.loads(str(found["request"]))["method"] == "encoder"
    searched = replace(encoded, method="optimize", save_every=None, steps=5, out=str(tmp_path / "searched"))
    assert run(searched, Reporter(note=noted.append)).written == 3
    assert noted == ["loss: l2, the mean squared error (LPIPS was learned on RGB pictures of 64 px)"]
    with pytest.raises(UsageError, match="has no --method encoder"):
        run(replace(request_, method="encoder", out=str(tmp_path / "x")))
    with pytest.raises(UsageError) as e:
        run(replace(encoded, method="optimize", init=str(tmp_path / "other.npz"), out=str(tmp_path / "x")))
    assert "no such file" in e.value.why
    run(replace(request_, steps=1, out=str(tmp_path / "dcgan")))
    with pytest.raises(UsageError, match="made with 'tiny-dcgan'") as e:
        run(replace(searched, init=str(tmp_path / "dcgan/seed0011.npz"), out=str(tmp_path / "x")))
    assert "not with 'tiny-vae'" in e.value.why
    write_npz(tmp_path / "two.npz", {"z": np.zeros((2, 4))})
    with pytest.raises(UsageError, match="it holds 2 latents, one is needed"):
        run(replace(searched, init=str(tmp_path / "two.npz"), out=str(tmp_path / "x")))


def test_bad_pictures_fail_alone_and_odd_ones_do_not(request_, photos, tmp_path):
    whole = (photos / "seed0011.png").read_bytes()
    bad = {"cut.png": whole[:90], "flipped.png": whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], "empty.png": b"",
           "text.jpg": b"not a picture"}  # fmt: skip
    for name, data in bad.items():
        (photos / name).write_bytes(data)
    write_image(photos / "wide.webp", np.zeros((20, 90, 4), np.uint8))
    results: list[Mapping[str, Any]] = []
    with pytest.raises(PartialError) as e:
        run(replace(request_, steps=3, batch_size=8), Reporter(result=results.append))
    assert e.value.code == 3 and e.value.what == "4 of 8 inputs failed"
    failed = {Path(r["input"]).name: r for r in results if r["status"] == "failed"}
    assert set(failed) == set(bad) and all("it is" in r["error"] or "damaged" in r["error"] for r in failed.values())
    made = {
        f"{Path(r['input']).stem}{end}" for r in results if r not in failed.values() for end in (".npz", "-rec.png")
    }
    assert set(bytes_of(tmp_path / "inv")) == made and len(made) == 8
    assert [r["status"] for r in results] == [r["status"] for r in sorted(results, key=lambda r: r["input"])]


def test_a_disk_that_fails_at_any_write_leaves_only_whole_files(request_, tmp_path, monkeypatch):
    request = replace(request_, steps=2)
    run(replace(request, out=str(tmp_path / "calm")))
    whole = bytes_of(tmp_path / "calm")
    for n in range(12):
        folder = tmp_path / f"inv{n}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", FullDisk(n, errno.ENOSPC if n % 3 else errno.EIO))
            with pytest.raises(GanctlError, match="cannot write") as e:
                run(replace(request, out=str(folder)))
        assert e.value.code == 1
        assert bytes_of(folder).items() <= whole.items()
        run(replace(request, out=str(folder)))
        assert bytes_of(folder) == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": float("nan")}, "cannot use --lr nan"),
        ({"lr": 0.0}, "above 0"),
        ({"steps": 0}, "cannot use --steps 0"),
        ({"save_every": 0}, "cannot use --save-every 0"),
        ({"mask": "gone.png"}, "cannot use --mask 'gone.png'"),
        ({"init": "gone.npz"}, "cannot use --init 'gone.npz'"),
        ({"inputs": ()}, "no input"),
        ({"inputs": ("gone", "lost*.png")}, "no such path: 'gone', 'lost*.png'"),
        ({"out": "-"}, "inversions go into a folder"),
        ({"out": "x.npz"}, "cannot write 3 inversions to 'x.npz'"),
        ({"model": "dcgan-mnits"}, "did you mean dcgan-mnist?"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(request_, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError) as e:
        resolve(replace(request_, **change))
    assert said in f"{e.value.message} {e.value.hint}"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_two_inputs_of_one_name_are_refused(request_, photos):
    (photos / "seed0011.jpg").write_bytes((photos / "seed0011.png").read_bytes())
    with pytest.raises(UsageError, match="two inputs have one output"):
        resolve(request_)


def test_a_killed_run_goes_on_with_what_is_missing(ganctl: Shell, dcgan: Path, tmp_path: Path):
    photos, folder = tmp_path / "photos", ganctl.folder / "inv"
    sample(SampleRequest(model=str(dcgan), num=6, out=str(photos), device="cpu"))
    command = ("invert", dcgan, photos, "-o", "inv", "--steps", 100, "-q")
    process = ganctl.start(*command)
    limit = time.monotonic() + 120
    while len(list(folder.glob("*.npz"))) < 2 and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npz")}
    assert 2 <= len(kept) < 6
    again = ganctl.ok(*command)
    assert again.lines == [f"inv/seed{s:04d}.npz" for s in range(6)] and again.err == ""
    run(InvertRequest(model=str(dcgan), inputs=(str(photos),), out=str(tmp_path / "calm"), steps=100, device="cpu"))
    assert bytes_of(folder) == bytes_of(tmp_path / "calm")
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept


def test_the_command_line(ganctl: Shell, dcgan: Path, photos: Path):
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    listed = f"{photos}/seed0012.png\n{photos}/bad.png\n".encode()
    command = ("invert", dcgan, photos / "seed0011.png", "--from-file", "-", "--steps", 5)
    first = ganctl(*command, stdin=listed)
    assert first.code == 3
    rows = [line.split("\t") for line in first.lines]
    assert [r[0] for r in rows] == [f"out/tiny-dcgan/invert/seed00{s}.npz" for s in (11, 12)]
    assert all(float(r[1]) > 0 for r in rows)
    assert f"{photos}/bad.png: it is cut short" in first.err and "error: 1 of 3 inputs failed" in first.err
    assert "loss: l2" in first.err and "invert: 15/15 (100 %)" in first.err
    again = ganctl(*command, "--json", stdin=listed)
    *results, error = [json.loads(line) for line in again.lines]
    assert [r["status"] for r in results] == ["exists", "exists", "failed"]
    assert error["error"]["kind"] == "partial" and again.code == 3
    code, out, err = ganctl.bytes(
        "invert", dcgan, "-", "-q", "--steps", 5, stdin=(photos / "seed0013.png").read_bytes()
    )
    assert (code, out, err) == (0, b"out/tiny-dcgan/invert/stdin.npz\n", "")

    plan = ganctl.ok("invert", dcgan, photos, "--dry-run", PYTHONPROFILEIMPORTTIME="1")
    assert f"- {photos}/seed0011.png" in plan.lines and "out: out/tiny-dcgan/invert" in plan.lines
    assert not any(line.endswith(" torch") for line in plan.err.splitlines())
    missing = ganctl("invert", dcgan, photos, "--loss", "lpips", "--offline", "-o", "seen")
    assert missing.code == 4 and " hint: ganctl zoo pull vgg16-imagenet\n" in missing.err
    for option in (("--space", "w"), ("--loss", "l1"), ("--noise",)):
        refused = ganctl("invert", dcgan, photos, *option)
        assert refused.code == 2 and option[0] in refused.err and "hint: " in refused.err
    assert read_image((ganctl.folder / "out/tiny-dcgan/invert/stdin-rec.png").read_bytes(), name="x").pixels.any()
