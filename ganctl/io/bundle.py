"""A Bundle: a folder `model.json` + `*.safetensors`. Snapshot, zoo download, built-in model and export are all this."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl import __version__
from ganctl.errors import UsageError, WeightsError, quoted
from ganctl.io.files import atomic_folder, atomic_write, read_regular
from ganctl.io.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
MAX_JSON_BYTES = 4 << 20
HINT = "get the bundle again, or make it anew with: ganctl convert"
NET_NAME = re.compile(r"[A-Za-z_]\w{0,63}")
FILE_NAME = re.compile(r"\w[\w.+=@-]{0,200}\.safetensors")


@dataclass(frozen=True)
class Bundle:
    """What `model.json` says. `nets` maps a network's name (G, D, G_ema) to its file beside it."""

    path: Path
    model: str
    """The file in `ganctl/models/` that builds it."""
    config: dict[str, Any]
    nets: dict[str, str]
    card: dict[str, Any] = field(default_factory=dict)
    """Licence, paper, training data, metrics, defaults: the keys of a zoo entry's card."""
    request: dict[str, Any] = field(default_factory=dict)
    """What `ganctl convert` was asked for, when it wrote the bundle."""

    def state(self, net: str, *, prefix: str = "") -> "dict[str, Tensor]":
        """The tensors of a network whose names begin with `prefix`. Raises WeightsError if absent or damaged."""
        if net not in self.nets:
            where = f"{quoted(self.path)} holds no network {quoted(net)}"
            raise WeightsError(where, f"it has {', '.join(self.nets)}", HINT)
        return read_tensors(self.path / self.nets[net], prefix=prefix)


def is_bundle(path: Path) -> bool:
    return (path / "model.json").is_file()


def read_bundle(path: Path) -> Bundle:
    """Reads and checks `model.json`; weights are read when asked for. Raises WeightsError."""
    where = f"cannot use bundle {quoted(path)}"
    data = _model_json(path / "model.json", where)
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        given = quoted(version) if isinstance(version, int | float) else "no number"
        hint = "upgrade ganctl" if newer else HINT
        raise WeightsError(where, f"format_version is {given}, this ganctl reads {FORMAT_VERSION}", hint)
    data.setdefault("request", {})
    kinds = {"model": str, "config": dict, "nets": dict, "card": dict, "request": dict}
    wrong = [k for k, kind in kinds.items() if not isinstance(data.get(k), kind)]
    if wrong:
        raise WeightsError(where, f"model.json lacks a proper {', '.join(map(quoted, wrong))}", HINT)
    if not data["nets"]:
        raise WeightsError(where, "model.json names no network", HINT)
    for name, file in data["nets"].items():
        if not NET_NAME.fullmatch(name):
            raise WeightsError(where, f"{quoted(name[:80])} is no name of a network", HINT)
        # A file name from a file is never joined to a path before this check.
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            shown = quoted(file[:80]) if isinstance(file, str) else "no text"
            raise WeightsError(where, f"network {quoted(name)} names the file {shown}: not a plain .safetensors", HINT)
    return Bundle(path, **{k: data[k] for k in kinds})


def _model_json(path: Path, where: str) -> dict[str, Any]:
    try:
        # JSON has no NaN, though Python reads it.
        data = json.loads(read_regular(path, limit=MAX_JSON_BYTES).decode(), parse_constant=_refuse)
    except UsageError as e:
        why = "it has no model.json" if not path.exists() else f"model.json: {e.why}"
        raise WeightsError(where, why, HINT) from e
    except (ValueError, RecursionError) as e:
        raise WeightsError(where, "model.json is not readable JSON", HINT) from e
    if not isinstance(data, dict):
        raise WeightsError(where, "model.json is not a JSON object", HINT)
    return data


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def write_bundle(
    path: Path,
    *,
    model: str,
    config: Mapping[str, Any],
    states: "Mapping[str, Mapping[str, Tensor]]",
    card: Mapping[str, Any],
) -> Bundle:
    """Writes a whole bundle folder at once. `states` maps network names to tensors. An old folder is replaced whole."""
    with atomic_folder(path) as folder:
        fill_bundle(folder, model=model, config=config, states=states, card=card)
    return read_bundle(path)


def fill_bundle(
    folder: Path,
    *,
    model: str,
    config: Mapping[str, Any],
    states: "Mapping[str, Mapping[str, Tensor]]",
    card: Mapping[str, Any],
    request: Mapping[str, Any] | None = None,
) -> None:
    """Writes a bundle's files into an existing folder (a snapshot adds its training state to the same folder)."""
    for name, state in states.items():
        write_tensors(folder / f"{name}.safetensors", state)
    data = {
        "format_version": FORMAT_VERSION,
        "ganctl": __version__,
        "model": model,
        "config": dict(config),
        "nets": {name: f"{name}.safetensors" for name in states},
        "card": dict(card),
    }
    if request:
        data["request"] = dict(request)
    with atomic_write(folder / "model.json") as f:
        f.write(json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n")
