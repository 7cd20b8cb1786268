"""The door for safetensors: named, finite, dense tensors of a real dtype, or one clear error."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ganctl.errors import WeightsError, printable, quoted

if TYPE_CHECKING:
    import torch
    from torch import Tensor


AGAIN = "get it again, or write it again as float32 safetensors"
OTHER = "the weights are of another network, or of the same at another size: compare its config"
DTYPES = frozenset(("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"))


def read_tensors(path: Path, *, check_finite: bool = True, prefix: str = "") -> "dict[str, Tensor]":
    """The tensors of a .safetensors file whose names begin with `prefix`, on the CPU; the others are not read.

    Raises WeightsError for a damaged or non-finite file, and for one that holds none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise WeightsError(f"cannot read weights {quoted(path)}", "it is not a regular file", AGAIN)
        with safe_open(path, framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys() if key.startswith(prefix)}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as e:
        raise WeightsError(f"cannot read weights {quoted(path)}", "there is no such file", AGAIN) from e
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, UnicodeDecodeError) as e:
        # The library's sentence may repeat a name in the file, and that may hold a terminal's commands.
        why = printable(str(e).splitlines()[0][:200] if str(e) else type(e).__name__)
        raise WeightsError(f"cannot read weights {quoted(path)}", f"not a whole safetensors file: {why}", AGAIN) from e
    if not tensors:
        kind = f"no tensors {prefix}*" if prefix else "no tensors"
        raise WeightsError(f"cannot use weights {quoted(path)}", f"the file holds {kind}", AGAIN)
    odd = [k for k, t in tensors.items() if str(t.dtype).removeprefix("torch.") not in DTYPES]
    if odd:
        kind = str(tensors[odd[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"cannot use weights {quoted(path)}", f"{_some(odd)} hold {kind}, which no network here has", AGAIN
        )
    bad = [k for k, t in tensors.items() if check_finite and t.is_floating_point() and not t.isfinite().all()]
    if bad:
        hint = "the training that wrote it had diverged: use an earlier snapshot"
        raise WeightsError(f"cannot use weights {quoted(path)}", f"{_some(bad)} hold NaN or infinity", hint)
    return tensors


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Writes a .safetensors file, atomically. Shared storage is copied, so every name stands for itself."""
    from safetensors.torch import save

    from ganctl.io.files import atomic_write

    with atomic_write(path) as f:
        f.write(save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}))


def load_into(net: "torch.nn.Module", state: "Mapping[str, Tensor]", *, where: str, hint: str = OTHER) -> None:
    """Puts a state into a network exactly: every key, every shape; missing, unexpected and mis-shaped listed apart.

    Works on a network built on the meta device too: parameters then *are* the given tensors, in the network's dtype.
    """
    own = net.state_dict()
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{quoted(k)} has shape {tuple(state[k].shape)}, the network needs {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = []
    if shapes:
        faults.append(shapes[0] + (f" ({len(shapes) - 1} more differ)" if len(shapes) > 1 else ""))
    if missing:
        faults.append(f"missing: {_some(missing)}")
    if unexpected:
        faults.append(f"unexpected: {_some(unexpected)}")
    if faults:
        raise WeightsError(f"cannot use weights {where}", "; ".join(faults), hint)
    net.load_state_dict({k: state[k].to(own[k].dtype) for k in own}, strict=True, assign=_is_meta(own))


def _is_meta(state: "Mapping[str, Tensor]") -> bool:
    return any(t.is_meta for t in state.values())


def _some(keys: list[str]) -> str:
    listed = ", ".join(quoted(k) for k in keys[:5])
    return listed + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
