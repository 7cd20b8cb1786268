"""Mean and covariance of features: accumulated in constant memory, kept as .npz, checked when read.

Other tools' files are read too: .npz with `mu` and `sigma` (pytorch-fid, clean-fid, NVIDIA's EDM, guided-diffusion),
.npz with `feats` (clean-fid, for KID), and the pickles of `metrics.foreign`.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt64

from ganctl.errors import UsageError, quoted
from ganctl.io.arrays import npz_names, read_npz, write_npz
from ganctl.metrics.catalog import METRICS
from ganctl.metrics.foreign import PICKLES, read_pickle

ARRAYS = ("mu", "sigma", "feats", "digests")
"""The fields of Stats that are arrays of the file themselves, under the names that the field's tools use."""
NO_MOMENTS = (np.zeros(0), np.zeros((0, 0)))
PENDING = 1024
"""Features folded in at a time: one large product is many times faster than one per batch."""


@dataclass(frozen=True)
class Seen:
    """What the images behind statistics were like, for the stamp and the warnings."""

    sizes: dict[str, int] = field(default_factory=dict)
    """`width x height` → images."""
    formats: dict[str, int] = field(default_factory=dict)
    """`jpeg`, `png`, … → images; empty where images never were files."""
    channels: dict[str, int] = field(default_factory=dict)
    """`grey`, `rgb`, `rgba` → images."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was done to odd files, in words → images."""
    skipped: int = 0


@dataclass(frozen=True)
class Stats:
    """Moments of features, and how they were made. Fields that a file does not record are None or empty."""

    mu: np.ndarray
    """float64 [d]."""
    sigma: np.ndarray
    """float64 [d, d], divided by n - 1."""
    n: int | None = None
    features: str | None = None
    mode: str | None = None
    weights_sha256: str | None = None
    resolution: int | None = None
    mirror: bool = False
    dtype: str = "fp32"
    """Number format of the network: fp32, bf16 or fp16."""
    seen: Seen = field(default_factory=Seen)
    feats: Float[np.ndarray, "n d"] | None = None
    """The features themselves, float32; kept only for metrics that moments do not give (KID, precision and recall)."""

    digests: UInt64[np.ndarray, "images"] | None = None
    """64 bits per image that name its pixels, to tell images that are on both sides."""

    @property
    def dims(self) -> int:
        return self.mu.size


class Moments:
    """Running mean and scatter in float64 (Chan, Golub & LeVeque 1979, eq. 2.1): no feature is kept."""

    def __init__(self, dims: int) -> None:
        self.n = 0
        self.mean = np.zeros(dims)
        self.scatter = np.zeros((dims, dims))
        self._pending: list[np.ndarray] = []

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        self._pending.append(np.asarray(features, np.float64))
        if sum(map(len, self._pending)) >= PENDING:
            self._fold()

    def _fold(self) -> None:
        if not self._pending:
            return
        x = np.concatenate(self._pending)
        self._pending.clear()
        with np.errstate(over="ignore", invalid="ignore"):  # `stats` says it in a sentence
            centre = x.mean(0)
            x -= centre
            step, total = centre - self.mean, self.n + len(x)
            self.scatter += x.T @ x + np.outer(step, step) * (self.n * len(x) / total)
            self.mean += step * (len(x) / total)
        self.n = total

    def stats(self, **stamp: Any) -> Stats:
        """Raises UsageError for fewer than two images, or features that are not finite."""
        self._fold()
        if self.n < 2:
            raise UsageError(f"cannot take statistics of {self.n} image{'s' * (self.n != 1)}", "it needs at least 2")
        sigma = self.scatter / (self.n - 1)
        if not (np.isfinite(self.mean).all() and np.isfinite(sigma).all()):
            raise UsageError("cannot use these features", "some are NaN or infinite", "check the network's weights")
        return Stats(self.mean.copy(), sigma, n=self.n, **stamp)


def write_stats(path: Path, stats: Stats, request: dict[str, Any] | None = None) -> None:
    """An .npz with pytorch-fid's `mu` and `sigma`, clean-fid's `feats` if kept, and how they were made. Atomic."""
    stamp = asdict(replace(stats, **dict.fromkeys(ARRAYS)))
    stamp = {k: v for k, v in stamp.items() if k not in ARRAYS}
    fields = {k: getattr(stats, k) for k in ARRAYS if getattr(stats, k) is not None}
    fields["stamp"] = np.array(json.dumps(stamp, sort_keys=True))
    # The main ones also stand for themselves, for readers that know no JSON.
    fields |= {k: np.array(stamp[k]) for k in ("n", "features", "mode", "weights_sha256") if stamp[k] is not None}
    write_npz(path, fields, request)


def read_stats(path: Path | str) -> Stats:
    """Statistics of ours or of another tool. Raises UsageError for anything but plausible moments or features.

    A file of features alone has their moments. Other arrays, such as the images in a reference file of
    guided-diffusion, are left unread.
    """
    where = f"cannot use statistics {quoted(path)}"
    if Path(path).suffix.lower() in PICKLES:
        arrays, n = read_pickle(Path(path), where)
        stats = Stats(*NO_MOMENTS, n=n)
    else:
        arrays = read_npz(path, only=(*ARRAYS, "stamp"))
        stats = _stamped(arrays, where)
    if stats.n is not None and stats.n < 2:
        raise UsageError(where, f"it was made from {stats.n} images; statistics need at least 2")
    if "feats" in arrays:
        stats = replace(stats, feats=_feats(arrays["feats"], stats.n, where))
    if "digests" in arrays and arrays["digests"].dtype == np.uint64 and arrays["digests"].ndim == 1:
        stats = replace(stats, digests=arrays["digests"])
    missing = [k for k in ("mu", "sigma") if k not in arrays]
    if stats.feats is not None and len(missing) == 2:
        return _with_moments(stats)
    if missing:
        hint = "make them with: ganctl fid IMAGES --save-stats FILE.npz"
        raise UsageError(where, f"it lacks {', '.join(map(quoted, missing))}, it has {_listed(npz_names(path))}", hint)
    kinds = arrays["mu"].dtype, arrays["sigma"].dtype
    if any(kind.kind != "f" for kind in kinds):
        raise UsageError(where, f"mu and sigma are {kinds[0]} and {kinds[1]}, not floating-point numbers")
    mu, sigma = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
    if mu.ndim != 1 or not mu.size or sigma.shape != (mu.size, mu.size):
        raise UsageError(where, f"mu has shape {mu.shape} and sigma {sigma.shape}, not (d,) and (d, d)")
    if stats.feats is not None and stats.feats.shape[1] != mu.size:
        raise UsageError(where, f"mu has {mu.size} dimensions and feats {stats.feats.shape[1]}")
    _check_covariance(sigma, where)
    return replace(stats, mu=mu, sigma=sigma)


def _feats(feats: np.ndarray, n: int | None, where: str) -> Float[np.ndarray, "n d"]:
    if feats.dtype.kind != "f":
        raise UsageError(where, f"feats are {feats.dtype}, not floating-point numbers")
    if feats.ndim != 2 or not feats.shape[1] or len(feats) != (n or len(feats)):
        raise UsageError(where, f"feats has shape {feats.shape}, not ({n or 'n'}, d)")
    return feats.astype(np.float32, copy=False)


def _with_moments(stats: Stats) -> Stats:
    """Mean and covariance of the features that a file keeps. Raises UsageError for fewer than two."""
    assert stats.feats is not None
    moments = Moments(stats.feats.shape[1])
    for start in range(0, len(stats.feats), PENDING):
        moments.add(stats.feats[start : start + PENDING])
    made = moments.stats()
    return replace(stats, mu=made.mu, sigma=made.sigma, n=made.n)


def _check_covariance(sigma: np.ndarray, where: str) -> None:
    scale = float(np.abs(sigma).max())
    skew = float(np.abs(sigma / 2 - sigma.T / 2).max()) * 2  # halved, so that the difference of two huge ones fits
    if skew > 1e-5 * scale:
        raise UsageError(where, f"sigma is not symmetric: mirrored entries differ by up to {skew:.3g}")
    least = float(np.diagonal(sigma).min())
    if least < -1e-6 * scale:
        raise UsageError(where, f"sigma has a negative variance ({least:.3g})")
    # |σᵢⱼ|² ≤ σᵢᵢ σⱼⱼ holds for every covariance, and unlike eigenvalues it costs nothing.
    deviation = np.sqrt(np.maximum(np.diagonal(sigma), 0))
    if (np.abs(sigma) > np.outer(deviation, deviation) * (1 + 1e-3) + 1e-6 * scale).any():
        raise UsageError(where, "sigma is no covariance: an entry is larger than its two variances allow")


def _stamped(arrays: dict[str, np.ndarray], where: str) -> Stats:
    if "stamp" not in arrays:
        return Stats(*NO_MOMENTS)
    try:
        stamp = json.loads(str(arrays["stamp"].reshape(-1)[0]))
        seen = Seen(**stamp.pop("seen"))
        stats = Stats(*NO_MOMENTS, seen=seen, feats=None, digests=None, **stamp)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as e:
        raise UsageError(where, "its record of how it was made is damaged") from e
    texts = (stats.features, stats.mode, stats.weights_sha256)
    counts = (stats.n, stats.resolution)
    tables = (seen.sizes, seen.formats, seen.channels, seen.notes)
    if (
        any(t is not None and not isinstance(t, str) for t in texts)
        or any(c is not None and type(c) is not int for c in counts)
        or not all(isinstance(t, dict) and all(type(v) is int for v in t.values()) for t in tables)
        or type(seen.skipped) is not int
        or not isinstance(stats.dtype, str)
    ):
        raise UsageError(where, "its record of how it was made is damaged")
    return stats


def check_fit(stats: Stats, *, source: str, features: str, mode: str, dims: int, dtype: str = "fp32") -> None:
    """Raises UsageError unless statistics were made by the network and protocol of this run. Unrecorded ones pass."""
    where = f"cannot use statistics {quoted(source)}"
    if stats.features not in (None, features):
        known = next((m.id for m in METRICS.values() if m.features == stats.features), None)
        hint = f"pass --metrics {known}" if known else "make them again from the images"
        raise UsageError(where, f"they are features of {stats.features}, this run uses {features}", hint)
    if stats.mode not in (None, mode):
        hint = f"pass --mode {stats.mode}, or make them again from the images"
        raise UsageError(where, f"they were made in mode {stats.mode}, this run uses {mode}", hint)
    if stats.dims != dims:
        raise UsageError(where, f"they have {stats.dims} dimensions, this run uses {dims}", f"pass --dims {stats.dims}")
    if stats.features is not None and stats.dtype != dtype:
        hint = f"pass --dtype {stats.dtype}, or make them again from the images"
        raise UsageError(where, f"they were made in {stats.dtype}, this run uses {dtype}", hint)


def _listed(names: list[str]) -> str:
    return ", ".join(map(quoted, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
