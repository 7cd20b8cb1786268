"""The data-only reader on damaged and hostile files: tensors, or one WeightsError or UsageError, soon, with little
memory, and nothing in a file is ever executed.
"""

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from ganctl.errors import UsageError, WeightsError
from ganctl.io.pickles import PersistedModule, read_torch
from tests.conftest import ROOT, golden

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(5)}
SECONDS = 5.0
"""Of computing: more than any single bad file may take."""


def torch_file(zipped: bool, value: object = STATE) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def outcome(path: Path, data: bytes) -> str:
    """'read', or the sentence of the one error there may be. Anything else fails the test."""
    path.write_bytes(data)
    begun = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = read_torch(path)
        said = "read"
        check_plain(value)
    except (WeightsError, UsageError) as e:
        said = e.message
        assert path.name in said and e.why and len(said) < 1000, said
        assert "weights_only" not in said and said.isprintable()
    assert time.process_time() - begun < SECONDS
    return said


def check_plain(value: object) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, PersistedModule):
        value = [value.state]
    if isinstance(value, list | tuple):
        for v in value:
            check_plain(v)
    elif isinstance(value, torch.Tensor):
        assert value.layout == torch.strided and value.is_contiguous()
    else:
        assert isinstance(value, str | bytes | int | float | set | None)


FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@FORMS
def test_empty_and_cut_short_anywhere(tmp_path: Path, zipped: bool) -> None:
    data, path = torch_file(zipped), tmp_path / "x.pth"
    assert "empty (0 bytes)" in outcome(path, b"")
    for end in {*range(1, len(data), max(1, len(data) // 80)), len(data) - 1, len(data) - 8, len(data) // 2}:
        assert outcome(path, data[:end]) != "read", f"cut at {end} of {len(data)}"


@FORMS
def test_bytes_behind_the_end(tmp_path: Path, zipped: bool) -> None:
    said = outcome(tmp_path / "x.pth", torch_file(zipped) + b"\0" * 7)
    assert said == "read" if zipped else "7 bytes follow its end" in said


@FORMS
def test_one_byte_flipped_anywhere(tmp_path: Path, zipped: bool) -> None:
    data, path = torch_file(zipped), tmp_path / "x.pth"
    rng, refused = random.Random(1), 0
    for _ in range(250):
        at = rng.randrange(len(data))
        refused += outcome(path, data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]) != "read"
    assert refused > 25


def test_a_flipped_tensor_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    data = torch_file(True, {"x": torch.full((64,), 1.5)})
    at = data.index(struct.pack("<f", 1.5) * 8) + 17
    said = outcome(tmp_path / "x.pth", data[:at] + b"\x55" + data[at + 1 :])
    assert "do not match the size and checksum" in said


@pytest.mark.parametrize("seed", range(4))
def test_fuzz(tmp_path: Path, seed: int) -> None:
    """A few hundred seeded mutations: bytes replaced, cut out, doubled, pieces of both forms and of a pickle mixed."""
    rng = random.Random(seed)
    sources = [torch_file(True), torch_file(False), pickle.dumps({"x": [1.5, "y", (2, None)]}, 2), mentions_nvidia()]
    path = tmp_path / "x.pth"
    for _ in range(120):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(max(1, len(data)))
            piece = rng.choice(sources)[(start := rng.randrange(40)) : start + rng.randrange(60)]
            match rng.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at : at + rng.randrange(1, 50)]
                case 2:
                    data[at:at] = data[at : at + rng.randrange(1, 200)]
                case _:
                    data[at:at] = piece
        outcome(path, bytes(data))


def mentions_nvidia() -> bytes:
    """A persisted object of version 6 that holds one tensor, as NVIDIA's snapshots write it."""
    storage = Name("torch.storage", "_load_from_bytes")(storage_file())
    tensor = Name("torch._utils", "_rebuild_tensor_v2")(storage, 0, (2,), (1,), False, {})
    state = {"_parameters": {"w": tensor}, "_buffers": {}, "_modules": {}, "_init_kwargs": {"z_dim": 4}}
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": "Generator", "state": state}
    return dumps(Name("torch_utils.persistence", "_reconstruct_persistent_obj")(meta))


def storage_file() -> bytes:
    out = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.ones(2).untyped_storage(), dtype=torch.float32, _internal=True
    )
    torch.save(storage, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


class Name:
    """Pickles as the global `module.name`, and a call of one as a REDUCE of it."""

    def __init__(self, module: str, name: str, args: tuple | None = None) -> None:
        self.module, self.name, self.args = module, name, args

    def __call__(self, *args: object) -> "Name":
        return Name(self.module, self.name, args)


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """The pure Python pickler, which writes names that exist nowhere on this machine too."""

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Name):
            super().save(obj, save_persistent_id)
            return
        self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
        if obj.args is not None:
            super().save(obj.args)
            self.write(b"R")


def dumps(obj: object, protocol: int = 3) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol).dump(obj)
    return out.getvalue()


def zip_of(pickled: bytes, *more: tuple[str, bytes], prefix: str = "archive") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z.writestr(f"{prefix}/data.pkl", pickled)
        for name, data in more:
            z.writestr(name, data)
    return out.getvalue()


def test_the_helper_writes_what_the_reader_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(mentions_nvidia())
    module = read_torch(path)
    assert module.tensors()["w"].tolist() == [1, 1] and module.init_kwargs == {"z_dim": 4}


@pytest.mark.parametrize("name", ["x.pth", "x.pkl", "x.ckpt"])
def test_other_kinds_of_file_under_the_right_name(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save

    path = tmp_path / name
    kinds = {
        "png": b"\x89PNG\r\n\x1a\n" + bytes(60), "json": b'{"a": 1}', "text": b"hello\n" * 20,
        "html": b"<!DOCTYPE html>", "safetensors": save({"x": torch.ones(2)}), "gzip": b"\x1f\x8b" + bytes(30),
        "zeros": bytes(4096), "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "npy": b"\x93NUMPY\x01\x00" + bytes(80),
        "a zip that is no torch file": zip_of(b"", prefix="a/b"),
    }  # fmt: skip
    for data in kinds.values():
        assert outcome(path, data) != "read"
    assert "Git LFS pointer" in outcome(path, kinds["lfs"])
    assert "web page" in outcome(path, kinds["html"])
    assert "it is no torch file" in outcome(path, kinds["text"])


def test_no_file_a_folder_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, why in (("gone.pth", "no such file"), ("pipe.pth", "not a regular file"), (".", "folder")):
        with pytest.raises(UsageError, match=why):
            read_torch(tmp_path / name)


def storage_pid(kind: str = "Float", key: str = "0", numel: object = 4) -> tuple:
    return ("storage", Name("torch", f"{kind}Storage"), key, "cpu", numel)


def with_storage(
    size: object, stride: object, *, numel: object = 4, offset: object = 0, record: bytes = bytes(16)
) -> bytes:
    """A zip file with one tensor and one storage, of whatever claims."""
    out = io.BytesIO()

    class P(_Pickler):
        def persistent_id(self, obj: object) -> object:
            return storage_pid(numel=numel) if obj is P else None

    P(out, 2).dump({"x": Name("torch._utils", "_rebuild_tensor_v2")(P, offset, size, stride, False, {})})
    return zip_of(out.getvalue(), ("archive/data/0", record))


def test_absurd_claims(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    assert outcome(path, with_storage((4,), (1,))) == "read"
    wrong: Iterable[tuple[bytes, str]] = [
        (with_storage((1 << 40,), (1,)), "beyond its storage"),
        (with_storage((1 << 40,), (0,)), "many times more bytes"),
        (with_storage((1 << 62, 1 << 62), (0, 0)), "many times more bytes"),
        (with_storage((4,), (1 << 62,)), "beyond its storage"),
        (with_storage((4,), (1,), offset=1), "beyond its storage"),
        (with_storage((4,), (1,), offset=1 << 62), "beyond its storage"),
        (with_storage((-4,), (1,)), "no list of counts"),
        (with_storage((4,), (-1,)), "no list of counts"),
        (with_storage((4, 1), (1,)), "no list of counts"),
        (with_storage((1,) * 100, (1,) * 100), "no list of counts"),
        (with_storage((1 << 80,), (1,)), "no list of counts"),
        (with_storage((4,), (1,), numel=1 << 40), "another size than it claims"),
        (with_storage((4,), (1,), numel=-4), "no known type"),
        (with_storage((4,), (1,), numel="4"), "no known type"),
        (with_storage((4,), (1,), record=bytes(12)), "another size than it claims"),
    ]
    for data, why in wrong:
        assert why in outcome(path, data)
    legacy = torch_file(False, {"x": torch.ones(4)})
    at = legacy.rindex(struct.pack("<q", 4))
    for claim in (1 << 40, -1, 5):
        assert "cut short or has another size" in outcome(
            path, legacy[:at] + struct.pack("<q", claim) + legacy[at + 8 :]
        )


def test_archives_with_records_that_do_not_belong(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    good = pickle.dumps({"x": 1}, 2)
    for name in ("../evil", "/etc/passwd", "archive/../../x", "a\\b", "archive/\x1b[31m"):
        assert "is refused" in outcome(path, zip_of(good, (name, b"x"))), name
    assert not (tmp_path.parent / "evil").exists()
    assert "occurs 2 times" in outcome(path, zip_of(good, ("archive/data.pkl", good)))
    assert "no data.pkl" in outcome(path, zip_of(good, ("other/data.pkl", good)))
    assert "TorchScript" in outcome(path, zip_of(good, ("archive/constants.pkl", good)))
    assert "TorchScript" in outcome(path, zip_of(good, ("archive/code/__torch__.py", b"")))
    assert "big-endian" in outcome(path, zip_of(good, ("archive/byteorder", b"big")))
    assert outcome(path, zip_of(good, ("archive/byteorder", b"little"), ("archive/version", b"3\n"))) == "read"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            t.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "tar archive" in outcome(path, out.getvalue())


def malicious(marker: Path) -> dict[str, bytes]:
    """Pickles that would create `marker` in a reader that imports, calls or executes anything."""
    touch, source = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    evil = Name("os", "system")(touch)
    storage = Name("torch.storage", "_load_from_bytes")
    persisted = {"type": "class", "version": 6, "module_src": source, "class_name": "X", "state": {"x": evil}}
    inner = Name("collections", "OrderedDict")([("b", evil)])
    calls = {
        "os.system": evil,
        "posix.system": Name("posix", "system")(touch),
        "eval": Name("builtins", "eval")(source),
        "eval of Python 2": Name("__builtin__", "eval")(source),
        "Popen": Name("subprocess", "Popen")(["touch", str(marker)]),
        "import": Name("importlib", "import_module")("os"),
        "getattr": Name("builtins", "getattr")(Name("os", "system"), "x"),
        "torch.load": Name("torch", "load")(str(marker)),
        "numpy.load": Name("numpy", "load")(str(marker), None, True),
        "jit": Name("torch.jit", "load")(str(marker)),
        "runpy": Name("runpy", "run_path")(str(marker)),
        "a class of torch": Name("torch.nn.modules.linear", "Linear")(2, 2),
        "dotted": Name("torch._utils", "_rebuild_tensor_v2.__globals__")(),
        "in a list": [1, {"x": evil}],
        "as an argument": Name("collections", "OrderedDict")([["a", evil]]),
        "nested": Name("collections", "OrderedDict")([("a", inner)]),
        "nested storage": storage(dumps(evil)),
        "legacy file in a storage": storage(legacy_with(evil)),
        "source of a persisted object": Name("torch_utils.persistence", "_reconstruct_persistent_obj")(persisted),
    }
    files = {name: dumps(value) for name, value in calls.items()}
    text = touch.encode()
    files["INST"] = b"(S'" + text + b"'\nios\nsystem\n."
    files["OBJ"] = b"(cos\nsystem\nS'" + text + b"'\no."
    files["NEWOBJ"] = b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(text)) + text + b"\x85\x81."
    files["STACK_GLOBAL"] = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(text)]) + text + b"\x85R."
    files["EXT1"] = b"\x80\x02\x82\x01)R."
    files["BUILD"] = b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb."
    files["setstate"] = b"\x80\x02ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb."
    files["PERSID"] = b"P" + text + b"\n."
    files["NEXT_BUFFER"] = b"\x80\x05\x97."
    return files


def legacy_with(value: object) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    return b"".join(dumps(v, 2) for v in (*head, value, []))


def test_nothing_is_ever_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "x.pth"
    # The check itself works: Python's own reader does run such a file.
    pickle.loads(malicious(marker)["os.system"])
    assert marker.exists()
    marker.unlink()
    for name, data in malicious(marker).items():
        for form in (data, zip_of(data), legacy_with(0).replace(dumps(0, 2), data, 1)):
            said = outcome(path, form)
            assert said != "read", name
        assert not marker.exists(), name
    assert "os.system" in outcome(path, malicious(marker)["os.system"])
    assert "which is code and not data" in outcome(path, malicious(marker)["eval"])


def shared(levels: int) -> bytes:
    """A list of ten references to a list of ten references to …, left on the stack: 10^levels values."""
    first = b"]q\x00N a0".replace(b" ", b"")
    step = [b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) + b"0" for i in range(levels)]
    return first + b"".join(step) + b"h" + bytes([levels])


def call(module: str, name: str, args: bytes) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + args + b"R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def colliding(n: int, end: bytes = b"") -> bytes:
    """Different whole numbers, each with the hash 0."""
    prime = (1 << 61) - 1
    return b"".join(b"\x8a\x0b" + (prime * i).to_bytes(11, "little", signed=True) + end for i in range(1, n))


def bombs() -> dict[str, bytes]:
    """Small files that would take endless time or memory."""
    big, latin = text("a" * (1 << 20)) + b"q\x00", text("latin1") + b"q\x01"
    pairs = b"(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(150_000)) + b"lq\x00"
    encoded = call("_codecs", "encode", b"h\x00h\x01\x86") * 60_000
    dicts = call("collections", "OrderedDict", b"h\x00\x85") * 20_000
    meta = text("type") + text("class") + text("version") + shared(40) + text("state") + b"N"
    tail = {
        "shared lists": shared(40),
        "deep lists": b"]" * 500_000 + b"a" * 499_999,
        "deep tuples": b")" + b"\x85" * 1_000_000,
        "deep tuple as a key": b"})" + b"\x85" * 1_000_000 + b"Ns",
        "a long number": b"\x8b" + struct.pack("<i", 4 << 20) + b"\x7f" * (4 << 20),
        "a long decimal": b"L" + b"9" * (4 << 20) + b"L\n",
        "a text that claims 8 EiB": b"\x8d" + struct.pack("<Q", 1 << 63) + b"x",
        "a negative length": b"T" + struct.pack("<i", -5) + b"xxxxx",
        "one text encoded again and again": b"(" + big + latin + encoded + b"l",
        "one list made a dict again and again": b"(" + pairs + dicts + b"l",
        "keys of one hash": b"}(" + colliding(200_000, b"N") + b"u",
        "a set of one hash": b"\x8f(" + colliding(200_000) + b"\x90",
        "a version that is a bomb": call(
            "torch_utils.persistence", "_reconstruct_persistent_obj", b"}(" + meta + b"u\x85"
        ),
        "many opcodes": b"N0" * 1_500_000 + b"N",
        "a list that holds itself": b"]q\x00h\x00a",
        "keys that are long tuples": b"((" + b"N" * 100_000 + b"tq\x00" + b"}h\x00Ns" * 50_000 + b"l",
        "the same key twice, a huge one": b"}" + big + b"Nsh\x00Ns",
        "storage keys that are a bomb": b"N",
    }
    files = {name: b"\x80\x04" + body + b"." for name, body in tail.items()}
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}]
    files["storage keys that are a bomb"] = b"".join(dumps(v, 2) for v in head) + b"\x80\x02" + shared(40) + b"."
    return {**files, "a packed record of zeros": packed_zeros()}


def packed_zeros() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", bytes(200 << 20))
    return out.getvalue()


LIMITED = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ganctl.errors import GanctlError
from ganctl.io.pickles import read_torch
for path in sys.argv[2:]:
    begun = time.process_time()
    try:
        read_torch(Path(path))
        said = "read"
    except GanctlError as e:
        said = e.why
    print(round(time.process_time() - begun, 2), said, sep="\\t")
"""


def test_bombs_end_soon_and_within_a_gibibyte(tmp_path: Path) -> None:
    files = bombs()
    for i, data in enumerate(files.values()):
        (tmp_path / f"{i}.pth").write_bytes(data)
    paths = [str(tmp_path / f"{i}.pth") for i in range(len(files))]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(ROOT), *paths], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == len(files)
    for name, (seconds, said) in zip(files, lines, strict=True):
        assert float(seconds) < SECONDS, f"{name}: {seconds} s"
        assert said != "read" and "damaged" not in said and len(said) < 300, f"{name}: {said}"
    assert "torch" not in done.stderr


def test_snapshot_damage(tmp_path: Path) -> None:
    """NVIDIA's form: cut, flipped, with another version and with an unknown name."""
    data = golden("nvidia-pickle/stylegan3-t-tiny-r32.pkl").read_bytes()
    path, rng = tmp_path / "x.pkl", random.Random(3)
    for _ in range(8):
        assert outcome(path, data[: rng.randrange(len(data))]) != "read"
        at = rng.randrange(3000)
        outcome(path, data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
    stranger = data.replace(b"torch_utils.persistence", b"torch_utils.persistancy")
    assert stranger != data and "torch_utils.persistancy" in outcome(path, stranger)
