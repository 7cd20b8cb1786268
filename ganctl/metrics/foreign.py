"""Statistics as other tools keep them in pickles, read as data, and what a file's name says of its protocol.

tool                        file                                        holds
StyleGAN2-ADA, StyleGAN3    gan-metrics/NAME-inception-2015-12-05-….pkl raw_mean, raw_cov: sums over num_items images,
                                                                        all_features: batches, for KID
EDM2                        FILE.pkl                                    num_images, fid: {mu, sigma}
torch-fidelity              NAME-inception-v3-compat-stat-fid-2048.pt   mu, sigma
                            NAME-inception-v3-compat-features-2048.pt   the features, one matrix
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganctl.errors import UsageError, WeightsError, quoted
from ganctl.io.pickles import read_torch

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pkl", ".pt")
HINT = "make them with: ganctl fid IMAGES --save-stats FILE.npz"


def read_pickle(path: Path, where: str) -> tuple[dict[str, np.ndarray], int | None]:
    """`mu` and `sigma`, or `feats`, or all three, and the number of images if the file says it.

    Sources of the formats: `FeatureStats` in metrics/metric_utils.py of NVlabs/stylegan2-ada-pytorch, `save_stats` in
    calculate_metrics.py of NVlabs/edm2, torch_fidelity/utils.py and metric_fid.py of torch-fidelity 0.4.0. StyleGAN's
    covariance divides by n, that of all others and ours by n - 1: it is brought to ours, which changes an FID by about
    an n-th of itself. Raises UsageError for what holds no statistics; nothing in a file is executed.
    """
    try:
        value = read_torch(path)
    except WeightsError as e:
        raise UsageError(where, e.why, HINT) from e
    if not isinstance(value, dict):
        return {"feats": _array(value, "the matrix", where)}, None
    if "raw_mean" in value and "raw_cov" in value:
        return _stylegan(value, where)
    inner = value.get("fid", value)
    if not isinstance(inner, dict) or not {"mu", "sigma"} <= inner.keys():
        names = ", ".join(quoted(k) for k in list(value)[:5])
        network = not {"G", "G_ema"}.isdisjoint(value)
        hint = "a network becomes a model by: ganctl convert FILE -o BUNDLE/" if network else HINT
        raise UsageError(where, f"it holds {names or 'nothing'}, and no statistics that ganctl knows", hint)
    arrays = {k: _array(inner[k], k, where) for k in ("mu", "sigma")}
    return arrays, _count(value.get("num_images"), where)


def _stylegan(value: dict[str, Any], where: str) -> tuple[dict[str, np.ndarray], int | None]:
    n = _count(value.get("num_items"), where)
    if n is None or n < 2:
        raise UsageError(where, f"it was made from {n or 'an unknown number of'} images; statistics need at least 2")
    arrays = {}
    if value.get("capture_all"):
        batches = value.get("all_features")
        if not isinstance(batches, list) or not batches:
            raise UsageError(where, "it says that it keeps all features, and holds none")
        parts = [_array(batch, "all_features", where) for batch in batches]
        if any(part.ndim != 2 or part.shape[1] != parts[0].shape[-1] for part in parts):
            raise UsageError(where, "its batches of features have different shapes")
        arrays["feats"] = np.concatenate(parts)
    if value.get("capture_mean_cov"):
        total, products = (_array(value[k], k, where).astype(np.float64) for k in ("raw_mean", "raw_cov"))
        if total.ndim != 1 or products.shape != (total.size, total.size):
            raise UsageError(
                where, f"raw_mean has shape {total.shape} and raw_cov {products.shape}, not (d,) and (d, d)"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            arrays["mu"] = total / n
            arrays["sigma"] = (products - np.outer(total, arrays["mu"])) / (n - 1)
        if not np.isfinite(arrays["sigma"]).all():
            raise UsageError(where, "its sums are too large for a number")
    if not arrays:
        raise UsageError(where, "it keeps neither moments nor features", HINT)
    return arrays, n


def _count(n: Any, where: str) -> int | None:
    if n is not None and (type(n) is not int or n < 0):
        raise UsageError(where, "its number of images is no number")
    return n


def _array(value: "Tensor | Any", name: str, where: str) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float64, torch.float32, torch.float16):
        raise UsageError(where, f"{name} is no array of floating-point numbers", HINT)
    if not value.isfinite().all():
        raise UsageError(where, f"{name} holds NaN or infinity")
    return value.numpy()


def mode_in_name(path: Path | str) -> str | None:
    """The protocol in the name of a file of clean-fid, which is `NAME_MODE_SPLIT_RESOLUTION[_kid].npz`."""
    found = re.fullmatch(r".+_(clean|legacy_pytorch|legacy_tensorflow)_[a-z0-9]+_(na|\d+)(_kid)?\.npz", Path(path).name)
    return found[1] if found else None
