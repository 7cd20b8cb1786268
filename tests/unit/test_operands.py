"""The sides of `ganctl fid` before anything is loaded: what they are, which images of them, when two are one."""

import os
import shutil
from pathlib import Path

import pytest

from ganctl.errors import UsageError
from ganctl.io.progress import Reporter
from ganctl.workflows.operands import Operand, operand, same, subset
from tests.cli.fid_tools import pictures, pixels
from tests.conftest import Tiny


def names(side: Operand) -> list[str]:
    return [image.name for image in side.images]


def test_a_subset_is_drawn_by_the_seed_without_repetition_in_name_order(tmp_path: Path) -> None:
    side = operand(str(pictures(tmp_path, pixels(30, 0, (8, 8)))))
    drawn = names(subset(side, 12, 3))
    assert drawn == sorted(set(drawn)) and len(drawn) == 12
    assert drawn == names(subset(side, 12, 3)) != names(subset(side, 12, 4))
    assert subset(side, 30, 3) is side and subset(side, 31, 3) is side


def test_the_digest_names_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "a", pixels(4, 0, (8, 8)))
    first = operand(str(folder)).digest()
    monkeypatch.chdir(tmp_path)
    assert operand("a").digest() == operand("./a/").digest() == operand("../" + tmp_path.name + "/a").digest() == first
    shutil.copytree(folder, "b")
    assert operand("b").digest() != first
    assert subset(operand("a"), 3, 0).digest() != first
    os.utime(folder / "0002.png", (1, 1))
    second = operand("a").digest()
    assert second != first
    (folder / "0002.png").rename(folder / "0009.png")
    assert operand("a").digest() not in (first, second)


def test_one_place_under_two_names_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "a", pixels(2, 0, (8, 8)))
    pictures(tmp_path / "b", pixels(2, 0, (8, 8)))
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    a = operand("a")
    assert same(a, operand(str(tmp_path / "a"))) and same(a, operand("link"))
    assert not same(a, operand("b"))
    assert same(Operand("dcgan-mnist", "model"), Operand("dcgan-mnist", "model"))
    assert not same(a, Operand("dcgan-mnist", "model"))


def test_what_each_reference_means(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = tiny("dcgan", resolution=16, channels=1, ngf=4, ndf=4, z_dim=8)
    shutil.copytree(bundle, "run/snapshots/000100")
    pictures(tmp_path / "~odd name [1]", pixels(2, 0, (8, 8)), "JPG")
    for ref, kind in (
        ("dcgan-mnist", "model"),
        ("somebody/dcgan", "model"),
        ("somebody/dcgan@main", "model"),
        (str(bundle), "model"),
        ("run", "model"),
        ("run/snapshots/000100/G_ema.safetensors", "model"),
        ("~odd name [1]", "images"),
    ):
        assert operand(ref).kind == kind, ref
    # Beside an existing folder, a missing one is a slip of the pen and no repository of the Hub.
    with pytest.raises(UsageError, match="no such path or model 'run/snapshot'") as caught:
        operand("run/snapshot")
    assert caught.value.hint == "did you mean run/snapshots?"


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", pixels(3, 0, (8, 8)))
    (folder / "x.png").symlink_to(folder / "0001.png")
    os.mkfifo(folder / "y.png")
    heard: list[tuple[str, str, str]] = []
    side = operand(str(folder), Reporter(warn=lambda *said: heard.append(said)))
    assert names(side) == ["0000.png", "0001.png", "0002.png"]
    assert heard == [(f"left out 'x.png' of '{folder}', and 1 more", "it is a link to 0001.png", "")]
