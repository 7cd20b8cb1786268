"""Latent files: the .npz that `sample --save-latents` and `invert` write, and `--latents` reads: z, w, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ganctl.errors import UsageError, quoted
from ganctl.io.arrays import read_npz

if TYPE_CHECKING:
    import numpy as np

MAX_LATENTS = 1_000_000
NOISE = "noise."
"""Before the name of a noise map's buffer: `invert --noise` keeps the maps beside w."""


@dataclass(frozen=True)
class LatentFile:
    """The latents of one file, all of one space."""

    path: Path
    space: str
    """z or w."""
    rows: "np.ndarray"
    """float32 [n, *shape]"""
    c: tuple[int, ...] | None = None
    """The class of each row, where the file says so."""
    maps: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    """float32 noise maps by their buffers' names, of a file of one w."""


def read_latents(
    paths: Sequence[str | Path], *, model: str, revision: str, shapes: Mapping[str, tuple[int, ...]]
) -> list[LatentFile]:
    """The latents of each file, in the order given.

    `shapes` has the shape of a latent in each space that will do, the preferred one first. A file holds an array by a
    space's name, [*shape] or [n, *shape]; `model` and `revision` say who made it. Raises UsageError for a file without
    such an array, of another shape, or of another model (naming both); all faults at once, at most five.
    """
    faults: list[UsageError] = []
    found: list[LatentFile] = []
    for path in map(Path, paths):
        try:
            found.append(_read(path, model, revision, shapes))
        except UsageError as e:
            faults.append(e)
    if faults:
        what, why = faults[0].what, faults[0].why
        if len(faults) > 1:
            what = f"cannot use {len(faults)} of {len(paths)} latent files"
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            why = "; ".join(e.message for e in faults[:5]) + more
        raise UsageError(what, why, "latents work only with the model that made them")
    count = sum(len(file.rows) for file in found)
    if count > MAX_LATENTS:
        raise UsageError("cannot use --latents", f"the files hold {count:,} latents, more than {MAX_LATENTS:,}")
    return found


def _read(path: Path, model: str, revision: str, shapes: Mapping[str, tuple[int, ...]]) -> LatentFile:
    import numpy as np

    arrays = read_npz(path)
    where = f"cannot use the latents in {quoted(path)}"
    made_by, made_at = _text(arrays, "model"), _text(arrays, "revision")
    if made_at and made_at != revision:
        raise UsageError(
            where,
            f"they were made with {quoted(made_by or '?')} (revision {quoted(made_at[:12])}), "
            f"not with {quoted(model)} (revision {quoted(revision[:12])})",
        )
    space = next((name for name in shapes if name in arrays), None)
    if space is None:
        wanted = " or ".join(map(quoted, shapes))
        raise UsageError(where, f"there is no array {wanted}, only {', '.join(map(quoted, list(arrays)[:5]))}")
    rows, shape = arrays[space], shapes[space]
    if rows.shape == shape:
        rows = rows[None]
    if rows.shape[1:] != shape or rows.dtype.kind not in "fiu" or len(rows) == 0:
        raise UsageError(where, f"{quoted(space)} has shape {rows.shape}, {quoted(model)} takes {('n', *shape)}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise UsageError(where, f"{quoted(space)} holds numbers beyond float32")
    c = arrays.get("class")
    if c is not None and (c.dtype.kind not in "iu" or c.size not in (1, len(rows))):
        raise UsageError(where, f"'class' has shape {c.shape} and type {c.dtype}, it holds one whole number a latent")
    maps = {name.removeprefix(NOISE): value for name, value in arrays.items() if name.startswith(NOISE)}
    maps = {name: value.astype(np.float32) for name, value in maps.items() if space == "w" and len(rows) == 1}
    return LatentFile(path, space, rows, None if c is None else tuple(np.resize(c, len(rows)).tolist()), maps)


def _text(arrays: "dict[str, np.ndarray]", name: str) -> str:
    return str(arrays[name].reshape(-1)[0]) if name in arrays and arrays[name].size == 1 else ""
