"""TensorBoard's event files, written by TensorBoard's own record writer: the numbers and grids of a run's log.

A run's event file is its log told again. One is written anew whenever a process takes the run up, so that every step
stands in it once, whatever a killed process had added behind its last snapshot.
"""

import importlib.util
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ganctl.errors import UsageError
from ganctl.io.files import atomic_write, write_error

PREFIX = "events.out.tfevents."
"""TensorBoard takes the files whose names hold `tfevents`, in the order of their names."""
NOT_SCALARS = ("nimg", "kimg", "time", "step")


def check_tensorboard() -> None:
    """Raises UsageError where the package is missing; imports nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        why, hint = "the package tensorboard is not installed", "pip install 'ganctl[logs]', or leave out --log"
        raise UsageError("cannot log for TensorBoard", why, hint)


class Events:
    """Appends to a run's event file: every call is on the disk when it returns. Raises GanctlError (disk full)."""

    def __init__(self, run: Path, rows: Iterable[Mapping[str, Any]], grids: Mapping[int, Path]) -> None:
        """A new file in place of the run's old ones, holding the log's `rows` and the `grids` by images seen."""
        for old in run.glob(f"{PREFIX}*"):
            old.unlink(missing_ok=True)
        self.path = run / f"{PREFIX}{round(time.time()):010d}.ganctl"
        records = [_version(), *(_scalars(row) for row in rows), *(_picture(nimg, p) for nimg, p in grids.items())]
        with atomic_write(self.path) as f:
            _write(f, records)

    def row(self, row: Mapping[str, Any]) -> None:
        """A line of log.jsonl: every number under its own name, at the images seen, at the line's time."""
        self._append(_scalars(row))

    def grid(self, nimg: int, picture: Path) -> None:
        """A PNG file under the name `samples`."""
        self._append(_picture(nimg, picture))

    def _append(self, record: bytes) -> None:
        try:
            with self.path.open("ab") as f:
                _write(f, [record])
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise write_error(self.path, e) from e


def _write(stream: Any, records: Iterable[bytes]) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(stream)
    for record in records:
        writer.write(record)


def _event(**fields: Any) -> bytes:
    # Made at import by protobuf: a type checker cannot see these names.
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(**fields).SerializeToString()  # pyright: ignore[reportAttributeAccessIssue]


def _version() -> bytes:
    """The first record of every event file."""
    return _event(wall_time=time.time(), file_version="brain.Event:2")


def _scalars(row: Mapping[str, Any]) -> bytes:
    numbers = {
        name: float(value)
        for name, value in row.items()
        if name not in NOT_SCALARS and isinstance(value, int | float) and math.isfinite(value)
    }
    values = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
    return _event(wall_time=row.get("time", 0.0), step=row["nimg"], summary={"value": values})


def _picture(nimg: int, path: Path) -> bytes:
    data = path.read_bytes()
    # PNG, sec. 11.2.2: width and height follow the name of the first chunk; the colour type is 0 for grey, 2 for RGB.
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    image = {"width": width, "height": height, "colorspace": 1 if data[25] == 0 else 3, "encoded_image_string": data}
    summary = {"value": [{"tag": "samples", "image": image}]}
    return _event(wall_time=path.stat().st_mtime, step=nimg, summary=summary)
