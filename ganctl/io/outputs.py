"""Outputs: where they go by default, and whether one is there already from the same request."""

import html
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.errors import UsageError, quoted
from ganctl.io.files import read_regular
from ganctl.io.limits import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    import numpy as np

Status = Literal["write", "exists"]

NPY_MARK = b"\nganctl-request: "
MAX_NPY_REQUEST = 64 << 10
HTML_MARK = '<meta name="ganctl-request" content="'
"""Near the start of a page, before the request as JSON with its quotes escaped."""
REQUEST_KEY = "ganctl-request"
"""Names the request inside an exported network, near its end."""
EXPORT_TAIL = 1 << 20
"""Bytes from the end of such a file that may hold it: the list of a .pt2's members comes after."""


def request_for(verb: str, model: str, revision: str, **options: Any) -> dict[str, Any]:
    """The record a file carries: what made it. Options that are None are left out."""
    made_by = {"ganctl": __version__, "verb": verb, "model": shown_name(model), "revision": revision}
    return made_by | {k: v for k, v in options.items() if v is not None}


def shown_name(ref: str) -> str:
    """A model's name for records and folders: of a path only its last part, so that no machine's folders get out."""
    path = Path(ref).expanduser()
    local = ref.startswith((".", "/", "~")) or (len(path.parts) > 1 and _exists(path))
    return (path.name or path.resolve().name) if local else ref


def default_folder(model: str, verb: str) -> Path:
    """out/<model>/<verb>: the name of a zoo entry or repository, or the last part of a path."""
    name = model.split("@")[0].rstrip("/\\").replace("\\", "/").split("/")[-1]
    return Path("out", name.removesuffix(".safetensors").strip(".") or "model", verb)


def status_of(path: Path, request: Mapping[str, Any], overwrite: bool = False) -> Status:
    """Whether to write `path`, or to leave it because the same request wrote it (ganctl's version aside).

    Raises UsageError when it is a folder, or holds anything else and `overwrite` is off.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {quoted(path)}", "it is a folder", "choose another name with -o")
    if overwrite or not os.path.lexists(path):
        return "write"
    settle(path, request_in(path), request)
    return "exists"


def settle(path: Path, found: Mapping[str, Any] | None, request: Mapping[str, Any]) -> None:
    """Accepts what is at `path` when `found`, the request it carries, is the one at hand; raises UsageError if not."""
    if found is not None and _compared(found) == _compared(request):
        return
    if found is None:
        why = "it is there already and carries no ganctl request"
    else:
        mine, theirs = _compared(request), _compared(found)
        differ = [k for k in {**theirs, **mine} if mine.get(k) != theirs.get(k)]
        told = (f"{k} was {_short(theirs.get(k))} and is now {_short(mine.get(k))}" for k in differ[:3])
        why = f"another request wrote it: {', '.join(told)}"
    raise UsageError(f"refused to overwrite {quoted(path)}", why, "pass --overwrite, or choose another place with -o")


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Refuses, before any work, a place that cannot be written: a file on the way, or no permission. Makes nothing.

    `folder` says that the path is to be a folder of files.
    """
    where = f"cannot write {quoted(path)}"
    if folder and _exists(path) and not path.is_dir():
        raise UsageError(where, "it is a file, and the outputs need a folder", "choose another place with -o")
    if "\0" in str(path):
        raise UsageError(where, "the name holds a null byte")
    parent = path if _exists(path) else path.parent
    while not _exists(parent) and parent != parent.parent:
        parent = parent.parent
    if path.exists() and path.is_file():
        parent = path.parent
    if not parent.is_dir():
        raise UsageError(where, f"{quoted(parent)} is not a folder", "choose another place with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(where, f"no permission to write in {quoted(parent)}", "choose another place with -o")


def npy_bytes(array: "np.ndarray", request: Mapping[str, Any]) -> bytes:
    """An .npy file, the request after the array's bytes, where NumPy's reader does not look."""
    import numpy as np

    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue() + NPY_MARK + json.dumps(dict(request)).encode() + b"\n"


def _npy_request(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - MAX_NPY_REQUEST))
            _, mark, text = f.read().rpartition(NPY_MARK)
        found = json.loads(text) if mark else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _html_request(path: Path) -> dict[str, Any] | None:
    try:
        head = read_regular(path, limit=MAX_REQUEST_BYTES, whole=False).decode("utf-8", "replace")
        found = json.loads(html.unescape(head.partition(HTML_MARK)[2].partition('"')[0]))
    except (UsageError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _export_request(path: Path) -> dict[str, Any] | None:
    """Of .onnx and .pt2, which keep it as the text it is: the JSON object after its name."""
    try:
        with path.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - EXPORT_TAIL))
            text = f.read().partition(REQUEST_KEY.encode())[2].partition(b"{")[2]
        found, _ = json.JSONDecoder().raw_decode("{" + text[:MAX_NPY_REQUEST].decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def request_in(path: Path) -> dict[str, Any] | None:
    """The request that a file written by ganctl carries, whatever its kind; None for any other file."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _npy_request(path)
    if suffix in (".html", ".htm"):
        return _html_request(path)
    if suffix == ".tar":
        from ganctl.io.archives import request_of_tar

        return request_of_tar(path)
    if suffix in (".onnx", ".pt2"):
        return _export_request(path)
    if suffix in (".gif", ".mp4", ".webm"):
        from ganctl.io.video import request_of_video

        return request_of_video(path)
    from ganctl.io.images import request_of

    return request_of(path)


def _compared(request: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON, as the file has it: a tuple here is a list there.
    return {k: json.loads(json.dumps(v)) for k, v in request.items() if k != "ganctl"}


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    text = str(value)
    return quoted(text if len(text) <= 40 else text[:37] + "...")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
