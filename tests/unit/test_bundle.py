"""Bundles: round trip, whole or absent, and every fault of a stranger's model.json as one sentence."""

import json
import os
from pathlib import Path

import pytest
import torch

from ganctl.errors import WeightsError
from ganctl.io.bundle import Bundle, is_bundle, read_bundle, write_bundle
from ganctl.load import load, network
from tests.conftest import Tiny

STATES = {"G": {"w": torch.ones(2)}, "D": {"w": torch.zeros(3)}}


def written(path: Path) -> Bundle:
    card = {"license": "MIT", "trained_on": "дані"}
    return write_bundle(path, model="dcgan", config={"ngf": 4}, states=STATES, card=card)


def test_round_trip(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b")
    assert is_bundle(tmp_path / "b") and bundle == read_bundle(tmp_path / "b")
    assert (bundle.model, bundle.config, bundle.card["trained_on"]) == ("dcgan", {"ngf": 4}, "дані")
    assert bundle.nets == {"G": "G.safetensors", "D": "D.safetensors"} and bundle.request == {}
    assert torch.equal(bundle.state("D")["w"], torch.zeros(3))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["D.safetensors", "G.safetensors", "b", "model.json"]
    with pytest.raises(WeightsError, match="holds no network 'E'"):
        bundle.state("E")


def test_an_old_folder_is_replaced_whole_and_a_failure_leaves_it(tmp_path: Path) -> None:
    written(tmp_path / "b")
    write_bundle(tmp_path / "b", model="gan", config={}, states={"G": STATES["G"]}, card={})
    assert not (tmp_path / "b" / "D.safetensors").exists()
    with pytest.raises(TypeError):
        write_bundle(tmp_path / "b", model="vae", config={"x": object()}, states=STATES, card={})
    assert read_bundle(tmp_path / "b").model == "gan"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def faults() -> dict[str, tuple[object, str]]:
    good = {"format_version": 1, "model": "dcgan", "config": {}, "nets": {"G": "G.safetensors"}, "card": {}}

    def nets(name: object, file: object) -> dict:
        return {**good, "nets": {name: file}}

    unsafe = ("../G.safetensors", "/etc/G.safetensors", "a/G.safetensors", "..", "G.pkl", "", ".safetensors", 5, None,
              "G\x00.safetensors", "a\\G.safetensors", "\x1b[31mG.safetensors", "G.safetensors/",
              "x" * 300 + ".safetensors", ["x" * 100_000])  # fmt: skip
    return {
        **{f"file {str(f)[:20]!r}": (nets("G", f), "not a plain .safetensors") for f in unsafe},
        **{
            f"net {n[:20]!r}": (nets(n, "G.safetensors"), "no name of a network") for n in ("", "../x", "a b", "x" * 99)
        },
        "no nets": ({**good, "nets": {}}, "names no network"),
        "a list": ([], "not a JSON object"),
        "newer": ({**good, "format_version": 2}, "format_version is '2'"),
        "no version": ({k: v for k, v in good.items() if k != "format_version"}, "format_version is no number"),
        "a true version": ({**good, "format_version": True}, "format_version"),
        "a huge version": ({**good, "format_version": ["x"] * 100_000}, "format_version is no number"),
        "no config": ({**good, "config": None}, "lacks a proper 'config'"),
        "two missing": ({"format_version": 1, "model": "dcgan", "config": {}}, "'nets', 'card'"),
        "model is a list": ({**good, "model": ["dcgan"]}, "lacks a proper 'model'"),
        "request is text": ({**good, "request": "x"}, "lacks a proper 'request'"),
        "NaN": ('{"format_version": 1, "config": {"glr": NaN}}', "not readable JSON"),
        "not JSON": ("{", "not readable JSON"),
        "empty": ("", "not readable JSON"),
        "deep": ("[" * 100_000, "not readable JSON"),
        "a long number": ('{"format_version": ' + "9" * 10_000 + "}", "not readable JSON"),
        "not UTF-8": (b"\xff\xfe{}", "not readable JSON"),
        "too large": (b" " * (5 << 20), "more than the limit"),
    }


@pytest.mark.parametrize("name", faults())
def test_faults_of_model_json(tmp_path: Path, name: str) -> None:
    value, why = faults()[name]
    data = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(WeightsError) as e:
        read_bundle(tmp_path)
    assert why in e.value.why and str(tmp_path) in e.value.what and len(e.value.message) < 1000
    assert e.value.message.isprintable()
    assert ("upgrade" in e.value.hint) == (name == "newer") and e.value.hint


def test_no_model_json_a_folder_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"it has no model\.json"):
        read_bundle(tmp_path)
    (tmp_path / "a" / "model.json").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "model.json")
    for name in "ab":
        with pytest.raises(WeightsError, match="it is"):
            read_bundle(tmp_path / name)


@pytest.mark.parametrize(
    "config, why",
    [
        ({"ngf": 0}, "greater than or equal to 1"),
        ({"ngf": "wide"}, "valid integer"),
        ({"nfg": 4}, r"unknown key 'nfg' \(did you mean ngf\?\)"),
        ({"resolution": 16, "ngf": 8}, r"has shape .*more differ"),
        ({"resolution": 32, "ngf": 4}, "missing: "),
        ({"resolution": 30}, "30 px"),
        ({"resolution": 1 << 40}, "less than or equal to"),
        ({"g_layers": [[1, 1, 1, 0]] * 40}, "at most 32"),
        ({"ngf": 1 << 14, "resolution": 1 << 14}, "has shape"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(tmp_path: Path, tiny: Tiny, config: dict, why: str) -> None:
    source = read_bundle(tiny("dcgan", resolution=16, ngf=4, ndf=4, z_dim=5, channels=1))
    states = {"G": source.state("G")}
    whole = {"resolution": 16, "z_dim": 5, "channels": 1, **config}
    bundle = write_bundle(tmp_path / "b", model="dcgan", config=whole, states=states, card={})
    with pytest.raises(WeightsError, match=why) as e:
        network(bundle, "G")
    assert e.value.hint


def test_a_bundle_of_a_family_that_is_not_here(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", model="stylegan9", config={}, states=STATES, card={})
    with pytest.raises(WeightsError, match="unknown model family 'stylegan9'"):
        network(bundle, "G")


def test_damaged_weights_in_a_bundle(tmp_path: Path, tiny: Tiny) -> None:
    import shutil

    path = shutil.copytree(tiny("gan", resolution=16, g_hidden=(8,), d_hidden=(8,)), tmp_path / "b")
    assert load(str(path), device="cpu").model == "gan"
    file = path / "G_ema.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(WeightsError, match=r"G_ema.safetensors'. not a whole safetensors file"):
        load(str(path), device="cpu")
    file.unlink()
    with pytest.raises(WeightsError, match=r"G_ema.safetensors"):
        load(str(path), device="cpu")
