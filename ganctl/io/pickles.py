"""The one door for foreign weights: torch files (zip form and the older form) and NVIDIA snapshots, read as data.

Nothing in a file is imported, called or executed; there is no switch for that. Tensors come from storages whose bytes
are counted against the file. TorchScript programs, tar checkpoints and names not in `pickle_records.KNOWN` are refused.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.errors import UsageError, WeightsError, printable, quoted
from ganctl.io.archives import BadArchive, Member, kind_of, read_contents, read_member
from ganctl.io.files import read_regular
from ganctl.io.limits import MAX_PICKLE_BYTES, MAX_PICKLE_DEPTH, MAX_PICKLE_NODES, MAX_WEIGHT_BYTES
from ganctl.io.pickle_machine import Budget, Global, Machine, Refused
from ganctl.io.pickle_records import (
    DTYPES,
    KNOWN,
    TF_NETWORKS,
    WIDTHS,
    NumpyArray,
    PersistedModule,
    PlainObject,
    Storage,
    TensorRecord,
    TfNetwork,
    is_name,
    legacy_storage,
    storage_of,
)

if TYPE_CHECKING:
    from torch import Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STARTS = tuple(bytes([c]) for c in b"\x80(c}])IJKLMFGSTUVXN")
"""First bytes of a pickle: PROTO, or any code that pushes a value."""
STRANGERS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself"),
    (b"<", "it is a web page, not the file itself"),
    (b"\x89PNG", "it is an image"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them"),
    (b"\x93NUMPY", "it is a NumPy array"),
    (b"\x1f\x8b", "it is packed with gzip: unpack it first"),
)
"""What is often downloaded in place of weights."""


@dataclass
class _Reader:
    """One file on its way in: budgets, storages by key, and the builders behind the known names."""

    nested_left: int
    """Bytes that files inside the file may still add up to."""
    stored_left: int
    """Bytes that the records of a zip may still unpack to."""
    tensors_left: int
    """Bytes that all tensors may still take."""
    budget: Budget = field(default_factory=Budget)
    depth: int = 0

    def machine(self, data: bytes, at: int, persistent: Callable[[Any], Any] | None) -> Machine:
        return Machine(data, at, known=self.known(), persistent=persistent, budget=self.budget)

    def known(self) -> dict[tuple[str, str], Callable[..., Any] | None]:
        return {**KNOWN, ("torch.storage", "_load_from_bytes"): self.nested}

    def nested(self, data: Any) -> Storage:
        """`torch.storage._load_from_bytes`: a whole older-form torch file inside the pickle, read by the same rules."""
        if not isinstance(data, bytes):
            raise Refused("a nested storage is not bytes")
        self.nested_left -= len(data)
        self.depth += 1
        if self.nested_left < 0 or self.depth > 4:
            raise Refused("its nested storages claim more bytes than the file has")
        value = self.legacy(data)
        self.depth -= 1
        if not isinstance(value, Storage):
            raise Refused("a nested storage file holds something else")
        return value

    def legacy(self, data: bytes) -> Any:
        """The form before torch 1.6: magic, version, system, value, storage keys (a pickle each), then raw storages."""
        storages: dict[str, Storage] = {}
        at = 0
        values = []
        for _ in range(5):
            m = self.machine(data, at, lambda pid: legacy_storage(pid, storages) if len(values) == 3 else _nothing())
            values.append(m.run())
            at = m.at
        magic, version, system, value, keys = values
        if magic != LEGACY_MAGIC or version != LEGACY_PROTOCOL or not isinstance(system, dict):
            raise Refused("its header is not that of a torch file")
        if system.get("little_endian") is not True:
            raise Refused("it was written on a big-endian machine")
        if not isinstance(keys, list) or not all(map(is_name, keys)) or sorted(keys) != sorted(storages):
            raise Refused("its list of storages does not match the tensors")
        for key in keys:
            storage = storages[key]
            width = WIDTHS[storage.kind][1] if storage.kind else 1
            (numel,) = struct.unpack_from("<q", data, at)
            at += 8
            if numel != storage.numel or at + numel * width > len(data):
                raise Refused(f"storage '{printable(key)}' is cut short or has another size than it claims")
            storage.data = data[at : at + numel * width]
            at += numel * width
        if at != len(data):
            raise Refused(f"{len(data) - at} bytes follow its end")
        return value

    def plain(self, data: bytes) -> Any:
        """A single pickle (NVIDIA snapshots)."""
        m = self.machine(data, 0, None)
        value = m.run()
        if m.at != len(data):
            raise Refused(f"{len(data) - m.at} bytes follow its end")
        return value

    def zipped(self, members: dict[str, Member]) -> Any:
        """The zip form: one pickle, one record per storage."""
        heads = [n for n in members if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(heads) != 1:
            raise Refused("it is a zip, but no torch file: it has no data.pkl")
        prefix = heads[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in members or any(n.startswith(f"{prefix}code/") for n in members):
            raise Refused("it is a TorchScript program, not a file of weights")
        order = members.get(f"{prefix}byteorder")
        if order and read_member(order, limit=64).strip() != b"little":
            raise Refused("it was written on a big-endian machine")
        storages: dict[str, Storage] = {}

        def load(pid: Any) -> Storage:
            storage, key = storage_of(pid, 5)
            known = storages.setdefault(key, storage)
            if (known.kind, known.numel) != (storage.kind, storage.numel):
                raise Refused(f"storage '{printable(key)}' has two sizes or types")
            if known.data is None:
                member = members.get(f"{prefix}data/{key}")
                width = WIDTHS[storage.kind][1] if storage.kind else 1
                if member is None or member.size != storage.numel * width:
                    raise Refused(f"storage '{printable(key)}' is missing or has another size than it claims")
                self.stored_left -= member.size
                if self.stored_left < 0:
                    raise Refused("its records unpack to many times more bytes than the file has")
                known.data = read_member(member, limit=MAX_WEIGHT_BYTES)
            return known

        data = read_member(members[heads[0]], limit=MAX_PICKLE_BYTES)
        m = self.machine(data, 0, load)
        value = m.run()
        if m.at != len(data):
            raise Refused(f"{len(data) - m.at} bytes follow its end")
        return value

    def finish(self, value: Any) -> Any:
        """Plain containers and real tensors in place of our records; each record becomes one tensor."""
        done: dict[int, tuple[Any, int]] = {}
        return self._finish(value, done, 0)[0]

    def _finish(self, value: Any, done: dict[int, tuple[Any, int]], depth: int) -> tuple[Any, int]:
        """The value and the nodes a walk over it meets: shared parts count every time, so no walk is endless."""
        if isinstance(value, str | bytes | int | float | None):
            return value, 1
        if depth > MAX_PICKLE_DEPTH:
            raise Refused(f"it is nested deeper than {MAX_PICKLE_DEPTH} levels, or holds itself")
        if (found := done.get(id(value))) is not None:
            return found
        nodes = 1

        def inner(v: Any) -> Any:
            nonlocal nodes
            result, n = self._finish(v, done, depth + 1)
            nodes += n
            if nodes > MAX_PICKLE_NODES:
                raise Refused(f"it holds more than {MAX_PICKLE_NODES} values")
            return result

        if isinstance(value, dict):
            result: Any = {k: inner(v) for k, v in value.items()}
        elif isinstance(value, list):
            result = [inner(v) for v in value]
        elif isinstance(value, tuple):
            result = tuple([inner(v) for v in value])
        elif isinstance(value, PersistedModule):
            result = PersistedModule(value.class_name, inner(value.state))
            _check_module(result)
        elif isinstance(value, PlainObject):
            state = {} if value.state is None else value.state
            if value.class_name in TF_NETWORKS:
                result = _tf_network({k: inner(v) for k, v in state.items() if k != "build_module_src"})
            else:
                result = PersistedModule(value.class_name, inner(state))
                _check_module(result)
        elif isinstance(value, TensorRecord):
            result = self.tensor(value)
        elif isinstance(value, NumpyArray):
            result = self.array(value)
        elif isinstance(value, Global) and value.module == "torch" and value.name in DTYPES:
            result = str(value)
        elif isinstance(value, set):
            result = set(value)
        else:
            raise Refused(f"it holds {value if isinstance(value, Global) else 'an object'} where data should be")
        done[id(value)] = result, nodes
        return result, nodes

    def tensor(self, t: TensorRecord) -> "Tensor":
        import torch

        width = DTYPES[t.dtype]
        storage, start = t.storage, t.offset * width
        if storage.base is not None:
            storage, first = storage.base
            start += first * width
        numel = math.prod(t.size)
        last = start // width + sum((n - 1) * s for n, s in zip(t.size, t.stride, strict=True)) if numel else 0
        size = len(storage.data or b"")
        inside = t.storage.numel * (WIDTHS[t.storage.kind][1] if t.storage.kind else 1) // width
        if numel and ((last + 1) * width > size or last - start // width + t.offset >= inside):
            raise Refused(f"a tensor of shape {t.size} reaches beyond its storage")
        self.spend(numel * width)
        if not numel:
            return torch.empty(t.size, dtype=getattr(torch, t.dtype))
        if storage.flat is None:
            storage.flat = torch.frombuffer(bytearray(storage.data or b""), dtype=torch.uint8)
        if t.dtype == "bool":  # any byte but 0 is true; torch would keep the byte as it is
            return storage.flat.as_strided(t.size, t.stride, start).ne(0)
        typed = storage.flat[: size // width * width].view(getattr(torch, t.dtype))
        return typed.as_strided(t.size, t.stride, start // width).clone(memory_format=torch.contiguous_format)

    def array(self, a: NumpyArray) -> "Tensor":
        import numpy as np
        import torch

        if a.dtype is None:
            raise Refused("it has a numpy array without contents")
        self.spend(len(a.raw))
        array = np.frombuffer(a.raw, str(a.dtype)).reshape(a.shape, order="F" if a.fortran else "C")
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))

    def spend(self, n: int) -> None:
        self.tensors_left -= n
        if self.tensors_left < 0:
            raise Refused("its tensors claim many times more bytes than the file has")


def read_torch(path: Path) -> Any:
    """A foreign .pt, .pth, .ckpt or .pkl as nested dicts, lists, tuples, scalars, PersistedModules and CPU tensors.

    Tensors are dense, contiguous, own their memory and have a real dtype; whether they are finite is the caller's
    check. Raises UsageError (no such file) or WeightsError (refused or damaged), each with one sentence.
    """
    where = f"cannot use weights {quoted(path)}"
    hint = "ganctl reads state dicts and NVIDIA snapshots as data; see: ganctl convert --list"
    try:
        kind = kind_of(path)
        if kind in ("tar", "packed-tar"):
            raise Refused("it is a tar archive: tar checkpoints are not read")
        if kind == "zip":
            contents = read_contents(path)
            if contents.skipped:
                name, why = contents.skipped[0]
                raise Refused(f"record {quoted(name)} of the archive is refused: {why}")
            reader = _reader(path.stat().st_size)
            return reader.finish(reader.zipped({m.name: m for m in contents.members}))
        data = read_regular(path, limit=MAX_WEIGHT_BYTES)
        if not data:
            raise Refused("it is empty (0 bytes)")
        if data[:1] not in STARTS:
            raise Refused(next((what for head, what in STRANGERS if data.startswith(head)), "it is no torch file"))
        reader = _reader(len(data))
        return reader.finish(reader.legacy(data) if _is_legacy(data) else reader.plain(data))
    except Refused as e:
        raise WeightsError(where, str(e), hint) from e
    except BadArchive as e:
        raise WeightsError(where, e.why, hint) from e
    except UsageError:
        raise
    except Exception as e:  # a damaged pickle can fail in every way its opcodes can
        raise WeightsError(where, "it is no torch file, or it is damaged", hint) from e


def _reader(size: int) -> _Reader:
    # A strided view may repeat values and a zip may be packed; eight times the file is far beyond any checkpoint.
    room = 8 * size + (64 << 20)
    return _Reader(nested_left=size, stored_left=room, tensors_left=room)


def _is_legacy(data: bytes) -> bool:
    magic = LEGACY_MAGIC.to_bytes(10, "little")
    return magic in data[:32]


def _nothing() -> Any:
    raise Refused("its header refers to tensors")


def _check_module(module: PersistedModule) -> None:
    import torch

    for part, kind in (("_parameters", torch.Tensor), ("_buffers", torch.Tensor), ("_modules", object)):
        held = module.state.get(part, {})
        if not isinstance(held, dict) or not all(isinstance(k, str) for k in held):
            raise Refused(f"{printable(module.class_name)}{part} is no dict")
        if not all(v is None or isinstance(v, kind) for v in held.values()):
            raise Refused(f"{printable(module.class_name)}{part} holds something that is no tensor")
    if not isinstance(module.state.get("_init_kwargs", {}), dict):
        raise Refused("an NVIDIA object has no proper arguments")


def _tf_network(state: dict[str, Any]) -> TfNetwork:
    import torch

    kinds = {"name": str, "version": int, "build_func_name": str, "static_kwargs": dict, "variables": list}
    parts, pairs = state.get("components", {}), state.get("variables")
    if any(not isinstance(state.get(k), kind) for k, kind in kinds.items()) or not isinstance(parts, dict):
        raise Refused("it has a TensorFlow network without its arguments or variables")
    if not all(isinstance(part, TfNetwork) for part in parts.values()):
        raise Refused("a TensorFlow network has a part that is none")
    own: dict[str, Any] = {}
    for pair in pairs or ():
        name, value = pair if isinstance(pair, tuple | list) and len(pair) == 2 else ("", None)
        if not is_name(name) or name in own or not isinstance(value, torch.Tensor | int | float):
            raise Refused("a TensorFlow network has a variable that is no array under a name")
        own[name] = value
    return TfNetwork(state["name"], state["version"], state["build_func_name"], state["static_kwargs"], own, parts)


__all__ = ["PersistedModule", "TfNetwork", "read_torch"]
