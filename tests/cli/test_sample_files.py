"""What `ganctl sample` writes, byte by byte; in this process, where starting torch is paid for once."""

import errno
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganctl.errors import GanctlError, UsageError
from ganctl.io.arrays import read_npz, write_npz
from ganctl.io.images import read_image
from ganctl.io.outputs import request_in
from ganctl.io.progress import Reporter
from ganctl.workflows.sample import SampleReport, SampleRequest, run
from tests.conftest import Tiny


@pytest.fixture
def request_(lively: Tiny, tmp_path: Path) -> SampleRequest:
    model = lively("dcgan", resolution=16, channels=1, z_dim=8, ngf=4, ndf=4)
    return SampleRequest(model=str(model), num=3, out=str(tmp_path / "out"), device="cpu")


def made(request: SampleRequest) -> tuple[SampleReport, list[Mapping[str, Any]]]:
    results: list[Mapping[str, Any]] = []
    return run(request, Reporter(result=results.append)), results


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pixels(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else read_image(path.read_bytes(), name=path.name).pixels


@pytest.mark.parametrize("out", ["x.png", "x.jpg", "x.webp", "x.npy", "x.zip", "sheet.webp"])
def test_every_kind_of_file_carries_its_request_and_is_skipped_by_it(request_, tmp_path, out):
    kind = out.rpartition(".")[2]
    request = replace(request_, out=str(tmp_path / out), num=1)
    if out == "sheet.webp":
        request = replace(request, num=4, grid="2x2")
    report, results = made(request)
    assert report.written == 1 and report.existing == 0 and results[0]["status"] == "written"
    before = bytes_of(tmp_path)
    carried = request_in(report.paths[0])
    assert carried and carried["verb"] == "sample" and carried["model"] == "tiny-dcgan"
    assert carried["revision"] == report.revision and str(tmp_path) not in str(carried)

    report, results = made(request)
    assert report.written == 0 and report.existing == 1 and results[0]["status"] == "exists"
    with pytest.raises(UsageError, match="refused to overwrite") as e:
        run(replace(request, seed=7))
    assert e.value.why and "--overwrite" in e.value.hint
    if kind in ("jpg", "webp"):
        with pytest.raises(UsageError, match="quality was '95' and is now '50'"):
            run(replace(request, quality=50))
    assert bytes_of(tmp_path) == before
    assert made(replace(request, seed=7, overwrite=True))[0].written == 1
    assert bytes_of(tmp_path).keys() == before.keys() and bytes_of(tmp_path) != before


def test_a_file_without_a_request_is_never_overwritten(request_, tmp_path):
    (tmp_path / "out").mkdir()
    for content in (b"", b"my notes", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "out/seed0001.png").write_bytes(content)
        with pytest.raises(UsageError, match="carries no ganctl request"):
            run(request_)
        assert bytes_of(tmp_path / "out") == {"seed0001.png": content}
    assert made(replace(request_, overwrite=True))[0].written == 3


def test_formats_hold_the_same_picture(request_, tmp_path):
    run(replace(request_, out=str(tmp_path / "a"), format="npy"))
    exact = [np.load(tmp_path / f"a/seed000{s}.npy") for s in range(3)]
    assert all(x.shape == (16, 16, 1) and x.dtype == np.uint8 for x in exact)
    for form, quality, off in (("png", 95, 0), ("webp", 100, 0), ("jpg", 100, 3)):
        run(replace(request_, out=str(tmp_path / form), format=form, quality=quality))
        for s in range(3):
            got = pixels(tmp_path / f"{form}/seed000{s}.{form}")
            got = got[..., :1]  # WebP knows no grey
            assert np.abs(got.astype(int) - exact[s]).max() <= off


@pytest.mark.parametrize("model", ["dcgan", "vae"])
def test_neither_batch_size_nor_neighbours_change_a_byte(tiny, lively, tmp_path, model):
    wide = {"resolution": 16, "channels": 3, "ngf": 8, "ndf": 4}
    bundle = lively("dcgan", **wide) if model == "dcgan" else tiny("vae")
    base = SampleRequest(model=str(bundle), num=9, device="cpu")
    for name, change in {"auto": {}, "one": {"batch_size": 1}, "four": {"batch_size": 4}}.items():
        run(replace(base, out=str(tmp_path / name), **change))
    run(replace(base, num=None, seeds="8,3,5-7,0-2,4", out=str(tmp_path / "shuffled")))
    whole = bytes_of(tmp_path / "auto")
    assert len(whole) == 9
    for name in ("one", "four", "shuffled"):
        assert bytes_of(tmp_path / name) == whole


def test_sizes_folders_grids_and_latents(request_, tmp_path):
    run(replace(request_, out=str(tmp_path / "a"), num=4))
    a = [pixels(tmp_path / f"a/seed000{s}.png") for s in range(4)]

    report, _ = made(replace(request_, num=4, grid="2x2", out=str(tmp_path / "sheet.png")))
    sheet = pixels(tmp_path / "sheet.png")
    assert report.paths == (tmp_path / "sheet.png",) and sheet.shape == (34, 34, 1)
    for s in range(4):
        y, x = s // 2 * 18, s % 2 * 18
        assert (sheet[y : y + 16, x : x + 16] == a[s]).all()

    run(replace(request_, num=None, seeds="999,1000,12345", subdirs=True, save_latents=True, out=str(tmp_path / "b")))
    stems = ["000000/seed0999", "001000/seed1000", "012000/seed12345"]
    assert sorted(bytes_of(tmp_path / "b")) == sorted(f"{s}.{e}" for s in stems for e in ("png", "npz"))
    latent = read_npz(tmp_path / "b/001000/seed1000.npz")
    assert latent["z"].shape == (1, 8) and str(latent["model"]) == "tiny-dcgan"

    run(replace(request_, size=40, out=str(tmp_path / "c")))
    assert pixels(tmp_path / "c/seed0000.png").shape == (40, 40, 1)

    archive = replace(request_, num=2, grid="2x1", save_latents=True, subdirs=True, out=str(tmp_path / "d.zip"))
    run(archive)
    with zipfile.ZipFile(tmp_path / "d.zip") as z:
        assert z.namelist() == [f"000000/seed000{s}.{e}" for s in (0, 1) for e in ("png", "npz")] + ["grid.png"]
        assert (read_image(z.read("000000/seed0001.png"), name="x").pixels == a[1]).all()
    first = (tmp_path / "d.zip").read_bytes()
    run(replace(archive, overwrite=True))
    assert (tmp_path / "d.zip").read_bytes() == first


def test_latents_give_back_their_pictures(request_, tmp_path):
    run(replace(request_, save_latents=True))
    z = np.concatenate([read_npz(tmp_path / f"out/seed000{s}.npz")["z"] for s in range(3)])
    write_npz(tmp_path / "many.npz", {"z": z})
    write_npz(tmp_path / "single.npz", {"z": z[1]})
    files = (str(tmp_path / "many.npz"), str(tmp_path / "single.npz"))
    request = replace(request_, num=None, latents=files, out=str(tmp_path / "back"))
    report, results = made(request)
    names = ["many-0000.png", "many-0001.png", "many-0002.png", "single.png"]
    assert [p.name for p in report.paths] == names
    assert [list(r) for r in results] == [["path", "input", "model", "revision", "status"]] * 4
    for name, seed in zip(names, (0, 1, 2, 1), strict=True):
        assert (pixels(tmp_path / "back" / name) == pixels(tmp_path / f"out/seed000{seed}.png")).all()
    assert made(request)[0].existing == 4
    for bad, why in (
        (replace(request, latents=(files[1], files[1])), "two latents would be written as 'single'"),
        (replace(request, out=str(tmp_path / "x.png")), "one file holds one image"),
        (replace(request, grid="3x3"), "cannot fill --grid"),
    ):
        with pytest.raises(UsageError, match=why):
            run(bad)


class FullDisk:
    """os.fsync that fails with `code` at its n-th call and ever after."""

    def __init__(self, n: int, code: int) -> None:
        self.left, self.code, self.lock, self.real = n, code, threading.Lock(), os.fsync

    def __call__(self, fd: int) -> None:
        with self.lock:
            self.left -= 1
            failed = self.left < 0
        if failed:
            raise OSError(self.code, os.strerror(self.code))
        self.real(fd)


def test_a_disk_that_fails_at_any_write_leaves_only_whole_files(request_, tmp_path, monkeypatch):
    request = replace(request_, grid="3x1", save_latents=True)
    run(replace(request, out=str(tmp_path / "calm")))
    whole = bytes_of(tmp_path / "calm")
    # Three latents, three pictures and a sheet; a file and its folder are flushed for each.
    for n in range(14):
        folder = tmp_path / f"out{n}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", FullDisk(n, errno.ENOSPC if n % 3 else errno.EIO))
            with pytest.raises(GanctlError) as e:
                run(replace(request, out=str(folder)))
        assert e.value.code == 1 and "cannot write" in e.value.what
        assert ("disk is full" in e.value.why) == bool(n % 3)
        left = bytes_of(folder)
        assert left.items() <= whole.items()
        run(replace(request, out=str(folder)))
        assert bytes_of(folder) == whole
