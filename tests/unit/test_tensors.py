"""The door for safetensors: what was written comes back; what is damaged or does not fit is one clear error."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from ganctl.errors import WeightsError
from ganctl.io.tensors import load_into, read_tensors, write_tensors


def state() -> dict[str, torch.Tensor]:
    return {"w": torch.randn(3, 4), "t": torch.randn(4, 2).t(), "n": torch.tensor(3), "h": torch.ones(2).bfloat16()}


def test_round_trip_and_shared_storage(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", state()
    tensors["again"] = tensors["w"]
    tensors["part"] = tensors["w"][1:]
    write_tensors(path, tensors)
    found = read_tensors(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in tensors.items())
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"features.0": torch.ones(2), "head.0": torch.tensor([float("nan")])})
    assert set(read_tensors(path, prefix="features.")) == {"features.0"}
    with pytest.raises(WeightsError, match="cannot use weights") as e:
        read_tensors(path, prefix="classifier.")
    assert e.value.why == "the file holds no tensors classifier.*"


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(WeightsError) as e:
        read_tensors(path)
    assert path.name in e.value.what and e.value.why and e.value.hint
    return e.value.why


def with_header(header: object, body: bytes = bytes(16)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_name_that_would_colour_the_screen(tmp_path: Path) -> None:
    """Found by scripts/fuzz_reader.py: the library repeats the name of a tensor whose offsets are wrong."""
    wrong = {"\x1b[31m": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}
    why = refused(tmp_path / "x.safetensors", with_header(wrong))
    assert why.isprintable() and "x1b[31m" in why


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, state())
    good = path.read_bytes()
    assert refused(path, b"")
    for end in (1, 7, 8, 9, 50, len(good) // 2, len(good) - 1):
        refused(path, good[:end])
    for bit in range(64):
        at = bit * 3 % 120
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit % 8)]) + good[at + 1 :])
        try:
            assert read_tensors(path)
        except WeightsError as e:
            assert "x.safetensors" in e.what
    for other in (b"\x89PNG\r\n\x1a\n" + bytes(80), b"PK\x03\x04" + bytes(80), b"{}" * 40, b"version https://git-lfs"):
        refused(path, other)


def test_absurd_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    assert refused(path, struct.pack("<Q", 1 << 60) + b"{}")
    for wrong in (
        {"x": {**tensor, "shape": [1 << 40]}},
        {"x": {**tensor, "data_offsets": [0, 1 << 40]}},
        {"x": {**tensor, "data_offsets": [16, 0]}},
        {"x": {**tensor, "shape": [-4]}},
        {"x": {**tensor, "dtype": "PICKLE"}},
        {"x": 5},
        [],
        {},
    ):
        refused(path, with_header(wrong))
    assert refused(path, with_header({"x": {**tensor, "dtype": "F8_E4M3", "shape": [16]}})).endswith(
        "no network here has"
    )


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("gone.safetensors", "pipe.safetensors", "."):
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_seen(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {f"w{i}": torch.tensor([1.0, value]) for i in range(7)} | {"fine": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"'w0'.*'w4' and 2 more hold NaN or infinity"):
        read_tensors(path)
    assert len(read_tensors(path, check_finite=False)) == 8


def test_missing_unexpected_and_mis_shaped_keys_are_listed_apart() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    right = net.state_dict()
    load_into(net, {k: v + 1 for k, v in right.items()}, where="'x'")
    assert torch.equal(net[0].weight, right["0.weight"])
    wrong = {"0.weight": torch.ones(5, 2), "0.bias": torch.ones(3), "extra": torch.ones(1), "1.bias": torch.ones(2)}
    before = net[0].bias.clone()
    with pytest.raises(WeightsError) as e:
        load_into(net, wrong, where="'x'", hint="do this")
    shapes = "'0.weight' has shape (5, 2), the network needs (3, 2) (1 more differ)"
    assert e.value.why == f"{shapes}; missing: '1.weight'; unexpected: 'extra'"
    assert e.value.what == "cannot use weights 'x'" and e.value.hint == "do this"
    assert torch.equal(net[0].bias, before), "nothing is loaded unless everything fits"


def test_many_faults_are_counted_not_listed() -> None:
    with pytest.raises(WeightsError) as e:
        load_into(nn.Linear(1, 1), {f"k{i}": torch.ones(1) for i in range(100)}, where="'x'")
    assert "'k4' and 95 more" in e.value.why and "'k5'" not in e.value.why


def test_a_network_on_the_meta_device_takes_the_tensors_in_its_own_dtype() -> None:
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    load_into(net, {"weight": torch.ones(2, 2).half(), "bias": torch.zeros(2, dtype=torch.float64)}, where="'x'")
    assert net.weight.dtype == net.bias.dtype == torch.float32
    assert net(torch.ones(1, 2)).tolist() == [[2, 2]]
