"""Latent files: the .npz that `sample --save-latents` and `invert` write, and `--latents` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganctl.errors import UsageError, quoted
from ganctl.io.arrays import read_npz

if TYPE_CHECKING:
    import numpy as np

MAX_LATENTS = 1_000_000


def read_latents(
    paths: Sequence[str | Path], *, model: str, revision: str, shape: tuple[int, ...]
) -> "list[tuple[Path, np.ndarray]]":
    """The latents of each file, as float32 [n, *shape], in the order given.

    A file holds `z`, either [*shape] or [n, *shape]; `model` and `revision` say who made it. Raises UsageError for a
    file without `z`, of another shape, or of another model (naming both); all faults at once, at most five.
    """
    faults: list[UsageError] = []
    found: list[tuple[Path, np.ndarray]] = []
    for path in map(Path, paths):
        try:
            found.append((path, _read(path, model, revision, shape)))
        except UsageError as e:
            faults.append(e)
    if faults:
        what, why = faults[0].what, faults[0].why
        if len(faults) > 1:
            what = f"cannot use {len(faults)} of {len(paths)} latent files"
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            why = "; ".join(e.message for e in faults[:5]) + more
        raise UsageError(what, why, "latents work only with the model that made them")
    count = sum(len(z) for _, z in found)
    if count > MAX_LATENTS:
        raise UsageError("cannot use --latents", f"the files hold {count:,} latents, more than {MAX_LATENTS:,}")
    return found


def _read(path: Path, model: str, revision: str, shape: tuple[int, ...]) -> "np.ndarray":
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
    if "z" not in arrays:
        raise UsageError(where, f"there is no array 'z', only {', '.join(map(quoted, list(arrays)[:5]))}")
    z = arrays["z"]
    if z.shape == shape:
        z = z[None]
    if z.shape[1:] != shape or z.dtype.kind not in "fiu" or len(z) == 0:
        raise UsageError(where, f"'z' has shape {z.shape}, {quoted(model)} takes {('n', *shape)}")
    with np.errstate(over="ignore"):
        z = z.astype(np.float32)
    if not np.isfinite(z).all():
        raise UsageError(where, "'z' holds numbers beyond float32")
    return z


def _text(arrays: "dict[str, np.ndarray]", name: str) -> str:
    return str(arrays[name].reshape(-1)[0]) if name in arrays and arrays[name].size == 1 else ""
