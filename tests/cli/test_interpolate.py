"""`ganctl interpolate`: exact keyframes, real videos, what is there already, and the pipe from invert."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.io.images import read_image
from ganctl.io.progress import Reporter
from ganctl.io.video import read_video, request_of_video
from ganctl.workflows.interpolate import InterpolateRequest, resolve, run
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.conftest import ROOT, Shell, Tiny

CONFIG = {"resolution": 16, "channels": 3, "z_dim": 8, "ngf": 4, "ndf": 4}


@pytest.fixture
def dcgan(lively: Tiny) -> Path:
    return lively("dcgan", **CONFIG)


@pytest.fixture
def walk(dcgan: Path, tmp_path: Path) -> InterpolateRequest:
    return InterpolateRequest(model=str(dcgan), out=str(tmp_path / "walk"), frames=4, seeds="0-2", device="cpu")


@pytest.fixture
def keys(dcgan: Path, tmp_path: Path) -> list[np.ndarray]:
    """What `sample` makes of seeds 0 to 5."""
    sample(SampleRequest(model=str(dcgan), num=6, out=str(tmp_path / "keys"), save_latents=True, device="cpu"))
    return [pixels(tmp_path / f"keys/seed000{s}.png") for s in range(6)]


def pixels(path: Path) -> np.ndarray:
    return read_image(path.read_bytes(), name=path.name).pixels


def frames(request: InterpolateRequest) -> list[np.ndarray]:
    report = run(request)
    return [pixels(Path(report.path) / f"frame{i:05d}.png") for i in range(report.frames)]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a == b).all())


@pytest.mark.parametrize("method", ["lerp", "slerp", "cubic"])
@pytest.mark.parametrize("easing", ["linear", "ease-in-out"])
def test_at_every_keyframe_the_frame_is_the_seeds_picture(walk, keys, tmp_path, method, easing):
    loop = frames(replace(walk, method=method, easing=easing))
    assert len(loop) == 12 and all(same(loop[4 * k], keys[k]) for k in range(3))
    assert len({f.tobytes() for f in loop}) == 12
    line = frames(replace(walk, method=method, easing=easing, loop=False, out=str(tmp_path / "line")))
    assert len(line) == 9 and all(same(line[4 * k], keys[k]) for k in range(3))
    z = tuple(str(tmp_path / f"keys/seed000{s}.npz") for s in (0, 1, 2))
    latents = frames(replace(walk, method=method, easing=easing, seeds=None, latents=z, out=str(tmp_path / "npz")))
    assert all(same(a, b) for a, b in zip(latents, loop, strict=True))


def test_walks_side_by_side_repeat_and_shuffle(walk, keys, tmp_path):
    wide = frames(replace(walk, seeds="0-5", grid="3x1"))
    assert len(wide) == 8 and wide[0].shape == (16, 48, 3)
    # Keyframes are dealt out cell by cell, as many to each.
    assert same(wide[0], np.concatenate([keys[0], keys[2], keys[4]], 1))
    assert same(wide[4], np.concatenate([keys[1], keys[3], keys[5]], 1))
    tall = frames(replace(walk, seeds="0-2", grid="1x2", num_keyframes=2, out=str(tmp_path / "tall")))
    assert same(tall[0], np.concatenate([keys[0], keys[2]], 0)) and same(tall[4], np.concatenate([keys[1], keys[0]], 0))
    # numpy's RandomState(7) deals 0 … 5 in this order, as in the authors' gen_video.
    order = np.arange(6)
    np.random.RandomState(7).shuffle(order)
    mixed = frames(replace(walk, seeds="0-5", frames=1, shuffle_seed=7, out=str(tmp_path / "mixed")))
    assert [next(k for k in range(6) if same(f, keys[k])) for f in mixed] == list(order)
    assert list(order) != list(range(6))


def test_frames_that_are_there_are_kept_and_the_missing_ones_come_out_the_same(walk, tmp_path):
    folder = tmp_path / "walk"
    run(walk)
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    for lost in ("frame00001.png", "frame00006.png", "frame00007.png"):
        (folder / lost).unlink()
    results: list[Mapping[str, Any]] = []
    report = run(walk, Reporter(result=results.append))
    assert report.status == "written" and [r["status"] for r in results].count("written") == 3
    assert [list(r) for r in results] == [["path", "frame", "model", "revision", "status"]] * 12
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole
    assert run(walk).status == "exists"
    with pytest.raises(UsageError, match="method was 'slerp' and is now 'lerp'"):
        run(replace(walk, method="lerp"))
    warned: list[tuple[str, str, str]] = []
    run(replace(walk, loop=False, overwrite=True), Reporter(warn=lambda *w: warned.append(w)))
    assert len(warned) == 1 and "more frames than this walk's 9" in warned[0][0]


@pytest.mark.parametrize("name", ["walk.gif", "walk.mp4", "walk.webm"])
def test_videos_have_the_frames_size_and_rate_that_were_asked_for(walk, lively, tmp_path, name):
    pytest.importorskip("av")
    path = tmp_path / name
    # Grey: colour is kept at half resolution, which 16 px of noise do not survive.
    request = replace(walk, model=str(lively("dcgan", **CONFIG | {"channels": 1})), out=str(path), fps=12.5, crf=4)
    sample(SampleRequest(model=request.model, num=3, out=str(tmp_path / "keys"), device="cpu"))
    assert run(request).frames == 12
    video = read_video(path)
    decoded = list(video.frames)
    assert len(decoded) == 12 and decoded[0].shape == (16, 16, 3) and abs(video.fps - 12.5) < 0.01
    for k in range(3):
        assert np.abs(decoded[4 * k].astype(int) - pixels(tmp_path / f"keys/seed000{k}.png")).mean() < 3
    made = request_of_video(path)
    assert made and made["verb"] == "interpolate" and made["seeds"] == "0-2" and made["model"] == "tiny-dcgan"
    before = path.read_bytes()
    assert run(request).status == "exists"
    with pytest.raises(UsageError, match="frames was '4' and is now '5'"):
        run(replace(request, frames=5))
    assert path.read_bytes() == before
    assert run(replace(request, frames=5, overwrite=True)).frames == 15


def test_a_walk_that_stands_still_is_a_gif_all_the_same(walk, tmp_path):
    request = replace(walk, seeds="1,1", frames=3, out=str(tmp_path / "still.gif"))
    assert run(request).status == "written" and run(request).status == "exists"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": "4"}, "needs two keyframes"),
        ({"seeds": "0-4", "grid": "2x1"}, "do not share out evenly"),
        ({"seeds": "0-999999", "grid": "1x1", "frames": 60}, "60,000,000 frames"),
        ({"seeds": None, "grid": "999x999"}, "more than 1,000,000 keyframes"),
        ({"seeds": None, "grid": "0x3"}, "not WxH"),
        ({"seeds": "0-99999999999"}, "largest seed"),
        ({"frames": 0}, "at least 1"),
        ({"fps": float("nan")}, "0.01 to 1000"),
        ({"fps": 0.0001}, "0.01 to 1000"),
        ({"fps": 60.0, "out": "x.gif"}, "at most 50 frames"),
        ({"crf": 60, "out": "x.mp4"}, "h264 takes 0 … 51"),
        ({"out": "x.avi"}, "a walk is written as .mp4, .webm, .gif"),
        ({"out": "x.gif", "codec": "h264"}, "--codec says h264"),
        ({"out": "-", "codec": "gif"}, "the stream is y4m"),
        ({"out": " "}, "the name is empty"),
        ({"latents": ("gone.npz",)}, "cannot use --seeds with --latents"),
        ({"latents": ("gone.npz",), "seeds": None}, "no such file"),
        ({"model": "dcgan-fashion-mnits"}, "unknown model"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(walk, tmp_path, monkeypatch, change, said):
    if str(change.get("out", "")).endswith(".mp4"):
        pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as e:
        resolve(replace(walk, **change))
    assert said in f"{e.value.message} {e.value.hint}"
    assert list(tmp_path.iterdir()) == []


def test_a_frame_too_large_for_memory_is_refused(walk, tiny):
    large = tiny("vae", resolution=1024, z_dim=2, hidden=[1])
    with pytest.raises(UsageError, match="a frame would have 10240 x 10240 pixels"):
        run(replace(walk, model=str(large), grid="10x10", num_keyframes=2))


def test_the_command_line(ganctl: Shell, dcgan: Path):
    first = ganctl.ok("interpolate", dcgan, "--frames", 2)
    assert first.lines == ["out/tiny-dcgan/interpolate/walk.gif"] and "frames: 12/12 (100 %)" in first.err
    again = ganctl.ok("interpolate", dcgan, "--frames", 2, "--json", PYTHONPROFILEIMPORTTIME="1")
    row = json.loads(again.out)
    assert list(row) == ["path", "frames", "model", "revision", "status"] and row["status"] == "exists"
    assert not any(line.endswith(" torch") for line in again.err.splitlines())
    plan = ganctl.ok("interpolate", dcgan, "-o", "w/", "--dry-run")
    assert {"seeds: 0-5", "num_keyframes: 6", "codec: png"} <= set(plan.lines)
    assert not (ganctl.folder / "w").exists()
    code, out, err = ganctl.bytes("interpolate", dcgan, "--seeds", "0,1", "--frames", 2, "-o", "-", "-q")
    assert code == 0 and err == ""
    assert out.startswith(b"YUV4MPEG2 W16 H16 F30:1 Ip A1:1 C444\nFRAME\n")
    assert len(out.partition(b"\n")[2]) == 4 * (6 + 3 * 16 * 16)
    typo = ganctl("interpolate", dcgan, "--seed", "3", PYTHONPROFILEIMPORTTIME="1")
    assert typo.code == 2 and "unknown option '--seed'" in typo.err and "did you mean --seeds?" in typo.err
    for option in ("--class", "--trunc"):
        assert ganctl("interpolate", dcgan, option, "1").code == 2


def test_without_pyav_it_says_what_to_install_and_what_works(ganctl: Shell, dcgan: Path, tmp_path: Path):
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/av.py").write_text("raise ImportError('no such library')\n")
    env = {"PYTHONPATH": f"{tmp_path / 'stub'}:{ROOT}"}
    done = ganctl("interpolate", dcgan, "-o", "walk.mp4", **env)
    assert done.code == 2 and not (ganctl.folder / "walk.mp4").exists()
    assert "error: cannot write 'walk.mp4'\n  why: video needs PyAV, which is not installed\n" in done.err
    assert "pip install 'ganctl[video]'" in done.err and "-o frames/" in done.err
    shown = ganctl.ok("interpolate", dcgan, "--seeds", "0,1", "--frames", 1, "-o", "frames/", **env)
    assert shown.lines == ["frames/frame00000.png", "frames/frame00001.png"]


def test_inverted_photos_are_piped_into_a_walk(ganctl: Shell, dcgan: Path, tmp_path: Path):
    pytest.importorskip("av")
    program = tmp_path / "bin/ganctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ganctl "$@"\n')
    program.chmod(0o755)
    sample(SampleRequest(model=str(dcgan), num=2, out=str(ganctl.folder / "photos"), format="jpg", device="cpu"))
    line = 'ganctl invert "$M" photos/*.jpg -o inv/ -q | xargs ganctl interpolate "$M" -o walk.mp4 --latents'
    env = {**ganctl.env, "PATH": f"{program.parent}:{ganctl.env['PATH']}", "M": str(dcgan)}
    done = subprocess.run(["sh", "-c", line], cwd=ganctl.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "walk.mp4\n", done.stderr
    assert len(list(read_video(ganctl.folder / "walk.mp4").frames)) == 120
