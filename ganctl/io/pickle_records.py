"""What a weights file may mention, as inert records: storages, tensors, numpy arrays, NVIDIA's networks.

`KNOWN` is the whole list of names a file may refer to; each stands for one of our own builders below, or for a type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ganctl.errors import printable
from ganctl.io.pickle_machine import Global, Pending, Record, Refused, scalars, set_items

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = {
    "Double": ("float64", 8),
    "Float": ("float32", 4),
    "Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "Int": ("int32", 4),
    "Short": ("int16", 2),
    "Char": ("int8", 1),
    "Byte": ("uint8", 1),
    "Bool": ("bool", 1),
}
DTYPES = dict(WIDTHS.values())
NUMPY_KINDS = frozenset("f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 b1".split())  # noqa: SIM905


@dataclass(frozen=True)
class PersistedModule:
    """A network in an NVIDIA snapshot: its class by name, its attributes as data.

    `torch_utils.persistence` gives the class's bare name and the constructor's arguments; a plain class pickle (R3GAN)
    gives the full name, `training.networks.Generator`, and no arguments.
    """

    class_name: str
    state: dict[str, Any]

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The constructor's arguments as the snapshot has them."""
        return self.state.get("_init_kwargs", {})

    def tensors(self, prefix: str = "") -> "dict[str, Tensor]":
        """Parameters and persistent buffers under state-dict names."""
        left_out = self.state.get("_non_persistent_buffers_set") or ()
        found = {prefix + k: v for k, v in self.state.get("_parameters", {}).items() if v is not None}
        buffers = self.state.get("_buffers", {}).items()
        found |= {prefix + k: v for k, v in buffers if v is not None and k not in left_out}
        for name, module in self.state.get("_modules", {}).items():
            if isinstance(module, PersistedModule):
                found |= module.tensors(f"{prefix}{name}.")
        return found


@dataclass(frozen=True)
class TfNetwork:
    """A network in NVIDIA's TensorFlow pickles (`dnnlib.tflib.network.Network`): arguments and variables as data."""

    name: str
    version: int
    function: str
    """The name of the function that builds it; its source is dropped unread."""
    kwargs: dict[str, Any]
    own: "dict[str, Tensor | float | int]"
    components: "dict[str, TfNetwork]"

    def variables(self, prefix: str = "") -> "dict[str, Tensor]":
        """Its variables and those of its parts, `mapping/Dense0/weight`; numbers become tensors without axes."""
        import torch

        found = {prefix + k: v if isinstance(v, torch.Tensor) else torch.tensor(v) for k, v in self.own.items()}
        for name, part in self.components.items():
            found |= part.variables(f"{prefix}{name}/")
        return found


@dataclass(eq=False)
class PlainObject(Pending):
    """A class of KNOWN_CLASSES on its way in: nothing but its name until BUILD hands over its attributes."""

    class_name: str
    state: Any = None

    def build(self, state: Any) -> None:
        if not isinstance(state, dict) or self.state is not None:
            raise Refused(f"{self.class_name} has no proper attributes")
        self.state = state


@dataclass(eq=False)
class Storage:
    kind: str | None
    """A key of WIDTHS; None is untyped, counted in bytes."""
    numel: int
    data: bytes | None = None
    base: "tuple[Storage, int] | None" = None
    """For an old view: the storage it lies in, and its first element there."""
    flat: "Tensor | None" = None
    """The bytes as one uint8 tensor, made at the first use."""


@dataclass(eq=False)
class TensorRecord:
    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


@dataclass(eq=False)
class NumpyType(Pending):
    text: str
    order: str = "<"

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|", ">", "="):
            raise Refused("it has a numpy type that is no plain number")
        self.order = state[1]

    def __str__(self) -> str:
        return self.order + self.text


@dataclass(eq=False)
class NumpyArray(Pending):
    shape: tuple[int, ...] = ()
    dtype: NumpyType | None = None
    raw: bytes = b""
    fortran: bool = False

    def build(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, raw = state
        self.raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        self.check()

    def check(self) -> None:
        if not isinstance(self.dtype, NumpyType) or not isinstance(self.raw, bytes) or not are_counts(self.shape):
            raise Refused("it has a numpy array that is no plain array of numbers")
        if math.prod(self.shape) * int(self.dtype.text[1:]) != len(self.raw):
            raise Refused(f"a numpy array of shape {self.shape} has {len(self.raw)} bytes")


def are_counts(values: Any) -> bool:
    """Whether it is a list of at most 64 whole numbers from 0 that fit in 63 bits."""
    return (
        isinstance(values, tuple | list)
        and len(values) <= 64
        and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
    )


def storage_of(pid: Any, length: int) -> tuple[Storage, str]:
    """('storage', type, key, location, numel, …) as torch writes it."""
    if type(pid) is not tuple or len(pid) != length or pid[0] != "storage" or not isinstance(pid[1], Global):
        raise Refused("it refers to something that is no storage")
    kind = pid[1].name.removesuffix("Storage")
    if not pid[1].name.endswith("Storage") or not is_name(pid[2]) or not are_counts([pid[4]]):
        raise Refused("it refers to a storage of no known type")
    return Storage(None if kind == "Untyped" else kind, pid[4]), pid[2]


def is_name(text: Any) -> bool:
    """Whether it is text of a length that fits into a message."""
    return type(text) is str and len(text) <= 256


def legacy_storage(pid: Any, storages: dict[str, Storage]) -> Storage:
    if type(pid) is tuple and pid[:1] == ("module",):
        raise Refused("it holds a whole module with its source code, not a state dict")
    storage, key = storage_of(pid, 6)
    known = storages.setdefault(key, storage)
    if (known.kind, known.numel) != (storage.kind, storage.numel):
        raise Refused(f"storage '{printable(key)}' has two sizes or types")
    if (view := pid[5]) is None:
        return known
    # Before torch 0.4 a storage could be a part of another: (key of its own, first element, number of elements).
    if type(view) is not tuple or len(view) != 3 or not are_counts(view[1:]) or view[1] + view[2] > known.numel:
        raise Refused("it has a storage view that reaches beyond its storage")
    return Storage(known.kind, view[2], base=(known, view[1]))


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRecord:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`; requires_grad and hooks say nothing about values."""
    if not isinstance(storage, Storage) or storage.kind is None:
        raise Refused("it has a tensor without a typed storage")
    return _checked(storage, offset, size, stride, WIDTHS[storage.kind][0])


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *rest: Any
) -> TensorRecord:
    if not isinstance(storage, Storage) or not isinstance(dtype, Global) or dtype.name not in DTYPES:
        raise Refused("it has a tensor of no known type")
    return _checked(storage, offset, size, stride, dtype.name)


def _checked(storage: Storage, offset: Any, size: Any, stride: Any, dtype: str) -> TensorRecord:
    if not are_counts([offset]) or not are_counts(size) or not are_counts(stride) or len(size) != len(stride):
        raise Refused("it has a tensor whose shape or stride is no list of counts")
    return TensorRecord(storage, offset, tuple(size), tuple(stride), dtype)


def _parameter(data: Any, *_: Any) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise Refused("it has a parameter that is no tensor")
    return data


def _from_type(function: Any, kind: Any, args: Any, _state: Any) -> TensorRecord:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with Python attributes, which are left out."""
    if not isinstance(function, Global) or type(args) is not tuple or not isinstance(kind, Global):
        raise Refused("it has a tensor of no known type")
    builder = KNOWN[function.module, function.name]
    if builder is None or builder not in (_tensor_v2, _tensor_v3, _parameter):
        raise Refused("it has a tensor of no known type")
    return builder(*args)


def _ordered(items: Any = ()) -> Record:
    found = Record()
    set_items(found, [x for pair in items for x in _pair(pair)])
    return found


def _pair(pair: Any) -> Any:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Refused("it has a dict that is no list of pairs")
    return pair


def _counter(items: Any = None) -> Record:
    return _ordered(list(items.items()) if isinstance(items, dict) else ())


def _namespace() -> Record:
    found = Record()
    found.open = True
    return found


def _set(items: Any = ()) -> set:
    return set(scalars(items))


def _numpy_dtype(text: Any, *_: Any) -> NumpyType:
    if not isinstance(text, str) or text.lstrip("<>|=") not in NUMPY_KINDS:
        raise Refused("it has a numpy type that is no plain number")
    return NumpyType(text.lstrip("<>|="))


def _numpy_scalar(dtype: Any, raw: Any) -> Any:
    import numpy as np

    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, NumpyType) or not isinstance(raw, bytes) or len(raw) != int(dtype.text[1:]):
        raise Refused("it has a numpy number that is no plain number")
    return np.frombuffer(raw, str(dtype))[0].item()


def _numpy_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray(tuple(shape), dtype, raw, order == "F")
    array.check()
    return array


def _encode(text: Any, codec: Any) -> bytes:
    """`_codecs.encode`, the way protocol 2 writes bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise Refused("it has bytes in an unknown form")
    return text.encode("latin-1")


def _device(*parts: Any) -> str:
    return ":".join(printable(p) for p in parts if is_name(p) or (type(p) is int and abs(p) < 1 << 16))


def _size(values: Any = ()) -> tuple:
    if not are_counts(values):
        raise Refused("it has a size that is no list of counts")
    return tuple(values)


def _persisted(meta: Any) -> PersistedModule:
    """`torch_utils.persistence._reconstruct_persistent_obj`: recorded; the source text inside is dropped unread."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise Refused("it has an NVIDIA object that is no class")
    if meta.get("version") != 6:
        raise Refused("it has an NVIDIA object of another version than 6")
    name, state = meta.get("class_name"), meta.get("state")
    if not is_name(name) or not isinstance(name, str) or not isinstance(state, dict):
        raise Refused("it has an NVIDIA object without a name or state")
    return PersistedModule(name, state)


def _plain_class(name: str) -> Callable[..., PlainObject]:
    def builder(*args: Any) -> PlainObject:
        if args:
            raise Refused(f"it builds {name} with arguments")
        return PlainObject(name)

    return builder


TF_NETWORKS = ("dnnlib.tflib.network.Network", "tfutil.Network")
"""The second is ProGAN's."""
KNOWN_CLASSES = (
    *TF_NETWORKS,
    *(f"torch.nn.modules.{c}" for c in ("conv.Conv2d", "linear.Linear", "container.ModuleList")),
    *(f"training.networks{v}.{c}" for v in ("", "_baseline") for c in ("Generator", "Discriminator")),
    *(
        f"{root}.{c}"
        for root in ("R3GAN", "BaselineGAN")
        for c in (
            *("Networks.Generator", "Networks.GeneratorStage", "Networks.GenerativeBasis", "Networks.UpsampleLayer"),
            *("Networks.Discriminator", "Networks.DiscriminatorStage", "Networks.DiscriminativeBasis"),
            *("Networks.DownsampleLayer", "Networks.ResidualBlock", "Networks.Convolution"),
            *("FusedOperators.BiasedActivationCUDA", "FusedOperators.BiasedActivationReference"),
            *(f"Resamplers.Interpolative{c}sampler{k}" for c in ("Up", "Down") for k in ("CUDA", "Reference")),
        )
    ),
)
"""Classes whose objects are pickled whole: TensorFlow's networks, and R3GAN's modules under their two names."""

KNOWN: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "Counter"): _counter,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encode,
    ("argparse", "Namespace"): _namespace,
    # pytorch_GAN_zoo's settings, beside the networks in its files.
    ("models.utils.config", "BaseConfig"): _namespace,
    ("torch._utils", "_rebuild_tensor"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.storage", "UntypedStorage"): None,
    ("torch", "UntypedStorage"): None,
    ("dnnlib.util", "EasyDict"): _ordered,
    ("dnnlib", "EasyDict"): _ordered,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persisted,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _numpy_dtype,
}
for _module in ("numpy.core", "numpy._core"):
    KNOWN[f"{_module}.multiarray", "scalar"] = _numpy_scalar
    KNOWN[f"{_module}.multiarray", "_reconstruct"] = lambda *_: NumpyArray()
    KNOWN[f"{_module}.numeric", "_frombuffer"] = _numpy_buffer
for _kind, (_dtype, _) in WIDTHS.items():
    KNOWN["torch", f"{_kind}Storage"] = None
    KNOWN["torch", _dtype] = None
for _name in KNOWN_CLASSES:
    KNOWN[_name.rpartition(".")[0], _name.rpartition(".")[2]] = _plain_class(_name)
