"""`ganctl interpolate` in W and of conditional models: keyframes, classes, truncation, latents."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.arrays import write_npz
from ganctl.io.images import read_image, request_of, to_pixels
from ganctl.io.video import request_of_video
from ganctl.load import load
from ganctl.nn.interpolation import walk as path
from ganctl.workflows.interpolate import InterpolateRequest, run
from ganctl.workflows.sample import SampleRequest
from ganctl.workflows.sample import run as sample
from tests.conftest import Shell, Tiny


@pytest.fixture
def walk(styled: Tiny, tmp_path: Path) -> InterpolateRequest:
    return InterpolateRequest(model=str(styled()), out=str(tmp_path / "walk"), frames=3, seeds="0-2", device="cpu")


@pytest.fixture
def classes(walk: InterpolateRequest, styled: Tiny) -> InterpolateRequest:
    return replace(walk, model=str(styled(classes=10)))


def frames(request: InterpolateRequest) -> list[np.ndarray]:
    report = run(request)
    return [pixels(Path(report.path) / f"frame{i:05d}.png") for i in range(report.frames)]


def pictures(request: InterpolateRequest, out: Path, **options: Any) -> list[np.ndarray]:
    """What `sample` makes of the same model."""
    report = sample(SampleRequest(model=request.model, out=str(out), device="cpu", **options))
    return [pixels(p) for p in report.paths]


def pixels(path: Path) -> np.ndarray:
    return read_image(path.read_bytes(), name=path.name).pixels


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a == b).all())


@pytest.mark.parametrize("space", ["z", "w"])
def test_keyframes_are_the_seeds_pictures(walk: InterpolateRequest, tmp_path: Path, space: Any) -> None:
    keys = pictures(walk, tmp_path / "keys", num=3, trunc=0.6)
    made = frames(replace(walk, space=space, trunc=0.6))
    assert len(made) == 9 and all(same(made[3 * k], keys[k]) for k in range(3))
    assert len({f.tobytes() for f in made}) == 9
    record = request_of(tmp_path / "walk/frame00000.png")
    assert record is not None and record["trunc"] == 0.6
    # The default is a spline in W.
    assert (record.get("space"), record["method"]) == (("w", "cubic") if space == "w" else (None, "slerp"))
    default = frames(replace(walk, trunc=0.6, out=str(tmp_path / "default")))
    assert all(same(a, b) for a, b in zip(default, made, strict=True)) == (space == "w")


@pytest.mark.parametrize("method", ["lerp", "slerp", "cubic"])
def test_between_them_w_goes_by_the_method(walk: InterpolateRequest, method: Any) -> None:
    net = load(walk.model, device="cpu").net
    with torch.inference_mode():
        keys = torch.cat([net.map(net.prior([s])) for s in range(3)])
        w = path(keys, method)(torch.tensor([4 / 3], dtype=torch.float64))
        wanted = to_pixels(net.synthesize(w), net.x.range)[0]
    assert same(frames(replace(walk, method=method))[4], wanted)


def test_classes_blend_in_w(classes: InterpolateRequest, tmp_path: Path) -> None:
    both = [pictures(classes, tmp_path / c, seeds="5", classes=c)[0] for c in ("2", "7")]
    blend = frames(replace(classes, seeds="5", classes="2,7"))
    assert len(blend) == 6 and same(blend[0], both[0]) and same(blend[3], both[1])
    assert len({f.tobytes() for f in blend}) >= 4
    # Without --class every keyframe has its seed's own.
    own = frames(replace(classes, out=str(tmp_path / "own")))
    assert all(same(own[3 * k], p) for k, p in enumerate(pictures(classes, tmp_path / "keys", num=3)))


def test_a_walk_in_z_has_one_class(classes: InterpolateRequest, tmp_path: Path) -> None:
    z = replace(classes, space="z", classes="4")
    made = frames(z)
    assert all(same(made[3 * k], p) for k, p in enumerate(pictures(z, tmp_path / "keys", num=3, classes="4")))
    with pytest.raises(UsageError, match="a walk in z has one class, and there is 1 walk for 2"):
        run(replace(z, classes="4,5", out=str(tmp_path / "b")))
    side = frames(replace(z, classes="4,5", seeds="0,1,0,1", grid="2x1", out=str(tmp_path / "side")))
    five = pictures(z, tmp_path / "five", num=1, classes="5")[0]
    assert same(side[0][:, :16], made[0]) and same(side[0][:, 16:], five)


def test_latents_of_w_and_of_z(walk: InterpolateRequest, tmp_path: Path) -> None:
    pictures(walk, tmp_path / "keys", num=3, trunc=0.5, save_latents=True)
    files = tuple(str(tmp_path / f"keys/seed000{s}.npz") for s in range(3))
    seeds = frames(replace(walk, trunc=0.5))
    latents = frames(replace(walk, seeds=None, latents=files, out=str(tmp_path / "w")))
    assert all(same(a, b) for a, b in zip(seeds, latents, strict=True))
    with pytest.raises(UsageError, match="cannot use --trunc with --latents"):
        run(replace(walk, seeds=None, latents=files, trunc=0.5, out=str(tmp_path / "t")))
    z = replace(walk, seeds=None, latents=files, space="z", trunc=0.5)
    in_z = frames(replace(z, out=str(tmp_path / "z")))
    assert all(same(a, b) for a, b in zip(in_z[::3], seeds[::3], strict=True))
    write_npz(tmp_path / "w.npz", {"w": np.zeros((2, 6, 16), np.float32)})
    with pytest.raises(UsageError, match="there is no array 'z', only 'w'"):
        run(replace(z, latents=(str(tmp_path / "w.npz"),), out=str(tmp_path / "none")))


def test_the_same_again_is_found_and_another_refused(walk: InterpolateRequest, tmp_path: Path) -> None:
    gif = replace(walk, out=str(tmp_path / "walk.gif"))
    assert (run(gif).status, run(gif).status, run(replace(gif, space="w")).status) == ("written", "exists", "exists")
    record = request_of_video(tmp_path / "walk.gif")
    assert record is not None and (record["space"], record["method"], record["trunc"]) == ("w", "cubic", 1.0)
    for change in ({"trunc": 0.5}, {"space": "z"}, {"method": "lerp"}):
        with pytest.raises(UsageError, match="refused to overwrite"):
            run(replace(gif, **change))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": "1"}, "was not trained on classes"),
        ({"trunc": float("inf")}, "cannot use --trunc inf"),
    ],
)
def test_what_does_not_go_is_refused(walk: InterpolateRequest, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        run(replace(walk, **options))
    assert said in e.value.message


def test_classes_that_are_none_and_a_model_without_w(classes: InterpolateRequest, lively: Tiny) -> None:
    for text in ("10", "1,10", "all,1", "0-3"):
        with pytest.raises(UsageError, match="class"):
            run(replace(classes, classes=text))
    model = str(lively("dcgan", resolution=16, channels=1, z_dim=8, ngf=4, ndf=4))
    for options, option in (({"space": "w"}, "--space w"), ({"trunc": 0.7}, "--trunc")):
        with pytest.raises(UsageError, match=f"cannot use {option}") as e:
            run(replace(classes, model=model, **options))
        assert e.value.why == f"'{model}' is of the family dcgan, which has no latent space W"


def test_the_command_line(ganctl: Shell, styled: Tiny) -> None:
    command = ("interpolate", styled(classes=10), "--seeds", 3, "--class", "1,2", "--trunc", 0.5, "--space", "w")
    plan = ganctl.ok(*command, "--method", "lerp", "--dry-run").lines
    assert {"seeds: 3,3", "classes: 1,2", "trunc: 0.5", "space: w", "method: lerp", "num_keyframes: 2"} <= set(plan)
