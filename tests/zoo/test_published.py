"""The whole road of a published network: pulled from its authors' address, hashed, converted once, sampled offline."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganctl.io.bundle import Bundle, read_bundle
from ganctl.io.progress import Reporter
from ganctl.load import network
from ganctl.workflows.recipe import resolve
from ganctl.workflows.train import new_state, transfer
from tests.cli.runs import pictures
from tests.cli.test_convert_published import SG2, SG3, TF, draws
from tests.conftest import golden
from tests.layouts import companion, openmmlab_names, rosinality_generator, tf_pickle
from tests.zoo.conftest import World
from tests.zoo.hubserver import Fault
from tests.zoo.test_pull import three_parts


def entry(
    world: World, name: str, model: str, file: str, data: bytes, *, form: str, net: str, digest: str = ""
) -> None:
    """A zoo of one entry, as zoo.yaml has those of NVIDIA's and OpenMMLab's files."""
    world.hub.files[file] = data
    world.zoo(
        f"{name}:\n  model: {model}\n  config: {{resolution: 32}}\n  weights:\n    upstream:\n"
        f"      url: {world.hub.url}/upstream/{file}\n      sha256: {digest or hashlib.sha256(data).hexdigest()}\n"
        f"      format: {form}\n      net: {net}\n"
        "  card: {task: sample, license: NVIDIA-NC, noncommercial: true, trained_on: noise}\n"
    )


def published(kind: str) -> tuple[str, bytes]:
    """The name and bytes of a golden network in one of the containers."""
    if kind == "tensorflow":
        return "config-f.pkl", tf_pickle(*(companion(SG2, k) for k in ("G", "D", "G_ema")), **TF)
    if kind == "openmmlab":
        state = openmmlab_names(rosinality_generator(companion(SG2, "G_ema")))
        return "x-rgb.pth", torch_file({"state_dict": {f"generator_ema.{k}": turned(k, t) for k, t in state.items()}})
    return "snapshot.pkl", golden(f"nvidia-pickle/{kind}.pkl").read_bytes()


def turned(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """OpenMMLab's files named rgb have the channels in RGB order."""
    return tensor.flip(1) if "to_rgb" in key and "modulation" not in key and "kernel" not in key else tensor


def torch_file(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


ROADS = {
    SG3: ("stylegan3", "nvidia-pickle", "G_ema", (1.0, 0.7)),
    SG2: ("stylegan2", "nvidia-pickle", "G_ema", (1.0, 0.7)),
    "tensorflow": ("stylegan2", "nvidia-pickle", "G_ema", (1.0, 0.7)),
    "openmmlab": ("stylegan2", "torch-checkpoint", "state_dict.generator_ema", (1.0,)),
}


@pytest.mark.parametrize("kind", ROADS)
def test_pull_and_convert_once(world: World, kind: str) -> None:
    model, form, net, psi = ROADS[kind]
    file, data = published(kind)
    entry(world, "tiny", model, file, data, form=form, net=net)
    done = world.run("zoo", "pull", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    assert "tiny is for non-commercial use only" in done.stderr
    bundle = read_bundle(Path(json.loads(done.stdout)["path"]))
    assert list(bundle.nets) == ["G_ema"] and bundle.card["license"] == "NVIDIA-NC"
    assert (bundle.config["resolution"], bundle.config["channel_max"]) == (32, 12 if kind == SG3 else 24)
    draws(bundle.path, "G_ema", SG3 if kind == SG3 else SG2, psi)
    assert world.hub.gets(f"/upstream/{file}") == 1
    # From here on nothing is asked.
    world.hub.requests.clear()
    if kind == SG2:
        sampled_offline(world, bundle)
    assert world.hub.requests == []


def sampled_offline(world: World, bundle: Bundle) -> None:
    """`sample` draws what the bundle's network draws, without converting again."""
    written = (bundle.path / "model.json").stat().st_mtime_ns
    done = world.run("sample", "tiny", "--seeds", "0,5", "-o", "out", "--offline", "-q")
    assert done.returncode == 0, done.stderr
    G = network(bundle, "G_ema")
    with torch.inference_mode():
        x = G.sample(G.prior([0, 5]))
    for path, image in zip(done.stdout.split(), x, strict=True):
        found = np.asarray(Image.open(world.folder / path)).astype(int)
        assert np.abs(found - ((image.permute(1, 2, 0) + 1) * 127.5).numpy()).max() <= 1
    assert (bundle.path / "model.json").stat().st_mtime_ns == written


def test_training_begins_from_all_that_the_authors_file_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data = published(SG2)
    entry(world, "tiny", "stylegan2", file, data, form="nvidia-pickle", net="G_ema")
    images = pictures(world.folder / "images", n=8, size=(32, 32), mode="RGB")
    sizes = ("channel_base=512", "channel_max=24", "z_dim=32", "w_dim=32")
    options = [f"--set={s}" for s in (*sizes, "batch=4", "kimg=0.004", "resolution=32")]
    done = world.run("train", "stylegan2-ada", str(images), "-o", "run", "--init-from", "tiny", *options)
    assert done.returncode == 0, done.stderr
    assert "started from 'tiny': loaded 75 tensors of G, 37 tensors of D; new: none" in done.stderr
    assert "warning" not in done.stderr.replace("tiny is for non-commercial", "")
    begun = read_bundle(world.folder / "run" / "snapshots" / "000000")
    for net in ("G", "D", "G_ema"):
        theirs, ours = companion(SG2, net), begun.state(net)
        assert all(torch.equal(theirs[k].float(), ours[k].float()) for k in ours), net
    assert json.loads((begun.path / "resume" / "state.json").read_text())["ada"]["p"] == 0
    # One file has been asked for, once; from here on other sizes load what fits.
    assert world.hub.gets(f"/upstream/{file}") == 1
    for name in ("HF_HOME", "GANCTL_CACHE", "GANCTL_ZOO"):
        monkeypatch.setenv(name, world.env[name])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    taken, new, hints = loaded("tiny", (*sizes, "resolution=16", "mapping_layers=3", "classes=3"))
    assert taken == "loaded 55 tensors of G, 23 tensors of D"
    assert "G.mapping.fc0.weight" in new and hints == ["pass --set mapping_layers=2"]


def loaded(name: str, settings: tuple[str, ...]) -> tuple[str, str, list[str]]:
    """What a transfer says: what is loaded, what is new, and what would help."""
    notes: list[str] = []
    hints: list[str] = []
    recipe = resolve("stylegan2", {"train.init_from": name}, settings)
    reporter = Reporter(note=notes.append, warn=lambda *parts: hints.append(parts[2]))
    transfer(name, new_state(recipe, torch.device("cpu")), recipe, reporter)
    taken, new = notes[-1].removeprefix(f"started from '{name}': ").split("; new: ")
    return taken, new, hints


def test_what_is_not_the_published_file(world: World) -> None:
    file, data = published(SG2)
    entry(world, "tiny", "stylegan2", file, data, form="nvidia-pickle", net="G_ema")
    world.hub.faults.append(Fault("/upstream/", "flip", times=1))
    done = world.run("zoo", "pull", "tiny")
    assert done.returncode == 4 and "its sha256 is " in done.stderr
    three_parts(done.stderr)
    entry(world, "tiny", "stylegan2", file, data, form="nvidia-pickle", net="G_mean")
    done = world.run("zoo", "pull", "tiny")
    assert done.returncode == 4 and "it holds no 'G_mean'" in done.stderr
    assert not list((world.folder / "cache").rglob("model.json"))
