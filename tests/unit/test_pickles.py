"""The data-only reader on honest files: both torch forms and NVIDIA's snapshots give the tensors that were saved."""

import argparse
import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from ganctl.io.pickles import PersistedModule, read_torch
from tests.conftest import golden

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
    *(torch.int8, torch.uint8, torch.bool),
)


def saved(path: Path, value: object, *, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b.detach())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))  # type: ignore[arg-type]
    return a == b and type(a) is type(b)


@FORMS
def test_a_state_dict_comes_back_as_it_was(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    state = read_torch(saved(tmp_path / "x.pth", net.state_dict(), zipped=zipped))
    assert equal(state, dict(net.state_dict()))


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_real_dtype(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    value = {"x": (torch.arange(12) % 5 - 1).to(dtype).reshape(3, 4)}
    assert equal(read_torch(saved(tmp_path / "x.pt", value, zipped=zipped)), value)


@FORMS
def test_views_shared_storages_and_odd_shapes(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0)
    value = {
        "whole": base, "part": base[3:9], "transposed": base.reshape(4, 6).t(), "every other": base[::2],
        "repeated": base[:1].expand(5), "scalar": torch.tensor(7.0), "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base[:4]), "0": torch.zeros(1),
    }  # fmt: skip
    found = read_torch(saved(tmp_path / "x.pt", value, zipped=zipped))
    assert equal(found, value)
    for tensor in found.values():
        assert tensor.is_contiguous() and not tensor.requires_grad
    found["part"][0] = 99.0
    assert found["whole"][3] == 3, "tensors must own their memory"


@FORMS
def test_what_lies_beside_tensors_in_a_checkpoint(tmp_path: Path, zipped: bool) -> None:
    value = {
        "epoch": 3, "loss": 0.25, "name": "ünïcode", "flags": [True, None, (1, "a")], "bytes": b"\x00\xff",
        "order": OrderedDict(a=1), "size": torch.Size([2, 3]), "device": torch.device("cuda:0"),
        "dtype": torch.float16, "big": 1 << 40, "negative": -5, "set": {1, 2},
        "nested": {"deep": [{"x": torch.ones(2)}]},
        "args": argparse.Namespace(nz=100), "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "swapped": np.arange(3, dtype=">f4"),
        "scalar": np.float64(1.5),
    }  # fmt: skip
    found = read_torch(saved(tmp_path / "x.ckpt", value, zipped=zipped))
    plain = {
        k: v for k, v in value.items() if k in ("epoch", "loss", "name", "flags", "bytes", "big", "negative", "set")
    }
    assert {k: found[k] for k in plain} == plain
    assert (found["order"], found["size"], found["device"]) == ({"a": 1}, (2, 3), "cuda:0")
    assert (found["dtype"], found["args"], found["scalar"]) == ("torch.float16", {"nz": 100}, 1.5)
    assert torch.equal(found["nested"]["deep"][0]["x"], torch.ones(2))
    assert found["array"].tolist() == found["fortran"].int().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["swapped"].tolist() == [0, 1, 2] and found["swapped"].dtype == torch.float32


@FORMS
def test_an_optimiser_and_a_moving_average_beside_the_nets(tmp_path: Path, zipped: bool) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {"netG": net.state_dict(), "optim": optimizer.state_dict(), "step": 1}
    found = read_torch(saved(tmp_path / "x.pth", value, zipped=zipped))
    assert equal(found["netG"], dict(net.state_dict()))
    assert equal(found["optim"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_old_storage_views(tmp_path: Path) -> None:
    """Before torch 0.4 a storage could be part of another: the sixth field of its persistent id."""
    path = saved(tmp_path / "x.pth", {"x": torch.arange(6.0)}, zipped=False)
    raw = path.read_bytes()
    # `('storage', FloatStorage, key, 'cpu', 6, None)`: BININT1 6, NONE → BININT1 6, ('1', 2, 3).
    at = raw.index(b"K\x06N")
    view = b"K\x06" + b"X\x01\x00\x00\x001" + b"K\x02K\x03\x87"
    changed = raw[:at] + view + raw[at + 3 :]
    # The tensor itself then has 3 elements.
    changed = changed.replace(b"K\x00K\x06\x85", b"K\x00K\x03\x85")
    path.write_bytes(changed)
    assert read_torch(path)["x"].tolist() == [2, 3, 4]


@pytest.mark.parametrize("name", ["stylegan2ada-tiny-r32", "stylegan3-t-tiny-r32"])
def test_nvidia_snapshots(name: str) -> None:
    """Every tensor and the constructor's arguments, without the embedded source; facts from the companion file."""
    path = golden(f"nvidia-pickle/{name}.pkl")
    snapshot = read_torch(path)
    assert {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"} == set(snapshot)
    count = 0
    with safe_open(golden(f"nvidia-pickle/{name}.safetensors"), "pt") as f:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in " ".join(f.metadata().values())
        wanted = [k for k in f.keys() if k.startswith("weights.")]  # noqa: SIM118
        for net in ("G", "D", "G_ema", "augment_pipe"):
            module = snapshot[net]
            assert isinstance(module, PersistedModule)
            tensors = module.tensors()
            names = {k.removeprefix(f"weights.{net}.") for k in wanted if k.startswith(f"weights.{net}.")}
            assert set(tensors) == names
            for key in names:
                ref = f.get_tensor(f"weights.{net}.{key}")
                assert tensors[key].dtype == ref.dtype and torch.equal(tensors[key], ref)
                count += 1
    assert count == len(wanted) > 100
    assert snapshot["G_ema"].class_name.endswith("Generator")
    assert snapshot["G_ema"].init_kwargs["img_resolution"] == 32
    assert snapshot["training_set_kwargs"]["resolution"] == 32
