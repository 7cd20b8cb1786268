"""Every road from a reference to a network that needs no server, and what is said where a road ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ganctl import load
from ganctl.errors import DeviceError, UsageError, WeightsError
from ganctl.io.progress import Reporter
from tests.conftest import Tiny

CONFIG = {"resolution": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of one's own to damage: G_ema, G and D."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny("dcgan", **CONFIG), tmp_path / "bundle"))


def picture(model: load.Model) -> torch.Tensor:
    return model.net.sample(model.net.prior([3]))


def test_bundle_file_inside_and_run(copy: Path, tmp_path: Path) -> None:
    whole = load.load(str(copy), device="cpu")
    assert whole.model == "dcgan" and whole.card["license"] == "Apache-2.0" and whole.device.type == "cpu"
    assert len(whole.revision) == 12 and not whole.net.training
    assert not any(p.requires_grad for p in whole.net.parameters())
    assert picture(whole).shape == (1, 1, 16, 16)
    # Another G: the file inside is that very network, the folder its moving average.
    other = {k: v * 2 for k, v in load.read_bundle(copy).state("G").items()}
    from ganctl.io.tensors import write_tensors

    write_tensors(copy / "G.safetensors", other)
    assert torch.equal(picture(load.load(str(copy), device="cpu")), picture(whole))
    one = load.load(str(copy / "G.safetensors"), device="cpu")
    assert not torch.equal(picture(one), picture(whole))
    assert one.revision != load.load(str(copy), device="cpu").revision
    # A run is its newest snapshot.
    run = tmp_path / "run"
    shutil.copytree(copy, run / "snapshots" / "000002")
    (run / "snapshots" / "000010").mkdir()
    (run / "snapshots" / "latest").mkdir()
    assert torch.equal(picture(load.load(str(run), device="cpu")), picture(whole))


@pytest.mark.parametrize("damage", ["cut", "flipped header", "gone", "nan", "bad json"])
def test_run_whose_newest_snapshot_is_damaged(copy: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    for name in ("000004", "000008"):
        shutil.copytree(copy, run / "snapshots" / name)
    hurt(run / "snapshots" / "000008", damage)
    warnings: list[tuple[str, str, str]] = []
    model = load.load(str(run), device="cpu", reporter=Reporter(warn=lambda *w: warnings.append(w)))
    assert torch.isfinite(picture(model)).all()
    ((what, why, hint),) = warnings
    assert "skipping the damaged snapshot" in what and "000008" in what and why and hint == "the one before is used"
    # Nothing left: the newest one's fault is told.
    hurt(run / "snapshots" / "000004", damage)
    with pytest.raises(WeightsError) as e:
        load.load(str(run), device="cpu")
    assert "000008" in e.value.what


def hurt(bundle: Path, damage: str) -> None:
    file = bundle / "G_ema.safetensors"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped header":
        file.write_bytes(bytes([data[0] ^ 0x40]) + data[1:])
    elif damage == "gone":
        file.unlink()
    elif damage == "nan":
        file.write_bytes(data[:-4] + b"\x00\x00\xc0\x7f")
    else:
        (bundle / "model.json").write_text("{")


def test_damaged_bundles_are_refused(copy: Path, tmp_path: Path) -> None:
    for damage in ("cut", "flipped header", "gone", "nan", "bad json"):
        bundle = Path(shutil.copytree(copy, tmp_path / damage))
        hurt(bundle, damage)
        with pytest.raises(WeightsError) as e:
            load.load(str(bundle), device="cpu")
        assert damage in e.value.what and e.value.why


def edited(copy: Path, **changes: object) -> str:
    path = copy / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(copy)


def test_bundles_that_are_not_what_they_say(copy: Path) -> None:
    good = json.loads((copy / "model.json").read_text())
    cases = {
        "model": ({"model": "dcgna"}, WeightsError, "known: "),
        "config": ({"config": {"resolutoin": 16}}, WeightsError, "unknown key 'resolutoin' (did you mean resolution?)"),
        "shape": ({"config": {**good["config"], "ngf": 8}}, WeightsError, "has shape"),
        "version": ({"format_version": 99}, WeightsError, "format_version is '99', this ganctl reads 1"),
        "nets": ({"nets": {"G": "../G.safetensors"}}, WeightsError, "not a plain .safetensors"),
        "net": ({"nets": {"D": "D.safetensors"}}, WeightsError, "it has D"),
        "card": ({"card": []}, WeightsError, "lacks a proper 'card'"),
    }
    for changes, kind, text in cases.values():
        with pytest.raises(kind) as e:
            load.load(edited(copy, **{**good, **changes}), device="cpu")
        assert text in e.value.message, e.value.message
    with pytest.raises(UsageError, match="did you mean dcgan"):
        try:
            load.family("dcgna")
        except UsageError as e:
            raise UsageError(e.hint) from e


def test_zoo_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path))
    model = load.load("lenet-mnist", device="cpu")
    assert model.model == "lenet" and model.card["task"] == "classify" and model.name == "lenet-mnist"
    assert model.net.logits(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert load.load(f"lenet-mnist@{model.revision}", device="cpu").revision == model.revision
    for wrong in ("0" * 12, model.revision[:3]):
        with pytest.raises(UsageError, match=f"pins it at {model.revision}"):
            load.load(f"lenet-mnist@{wrong}", device="cpu")
    with pytest.raises(UsageError, match="unknown model"):
        load.load("lenet-mnits", device="cpu")
    with pytest.raises(UsageError, match="runs none from files"):
        load.load("network.pkl", device="cpu")


def test_a_built_in_model_that_was_changed(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    sha = hashlib.sha256((copy / "G_ema.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(load, "builtin_path", lambda entry: copy)
    zoo = tmp_path / "zoo.yaml"
    weights = f"{{builtin: mine, sha256: '{sha}'}}"
    zoo.write_text(f"mine:\n  model: dcgan\n  weights: {weights}\n  card: {{task: sample, license: MIT}}\n")
    monkeypatch.setenv("GANCTL_ZOO", str(zoo))
    assert load.load("mine", device="cpu").card["license"] == "MIT"
    data = bytearray((copy / "G_ema.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "G_ema.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="sha256 differs from the zoo's"):
        load.load("mine", device="cpu")
    shutil.rmtree(copy)
    with pytest.raises(WeightsError, match="lacks its built-in bundle"):
        load.load("mine", device="cpu")


def test_devices() -> None:
    assert load.pick_device("cpu") == torch.device("cpu")
    assert load.pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:x", "cpu:one", ""):
        with pytest.raises(UsageError):
            load.pick_device(wrong)
    if not torch.cuda.is_available():
        for missing in ("cuda", "cuda:1"):
            with pytest.raises(DeviceError, match="no CUDA device"):
                load.pick_device(missing)
    else:
        with pytest.raises(DeviceError, match="CUDA devices"):
            load.pick_device("cuda:99")


def test_best_net_is_the_moving_average(copy: Path) -> None:
    assert load.best_net(load.read_bundle(copy)) == "G_ema"
    (copy / "model.json").write_text((copy / "model.json").read_text().replace('"G_ema": "G_ema.safetensors",', ""))
    assert load.best_net(load.read_bundle(copy)) == "G"
    assert load.public_net(load.family("lenet")) == "C" and load.public_net(load.family("pix2pix")) == "G"
