"""pytorch-fid, torch-fidelity and clean-fid, as tests and benchmarks call them: on this computer, with given weights.

The peers fetch Inception when they start. `install_weights` puts a file where they look first, so that their own code
runs unchanged and without a network. They are no part of what they are held against: warnings that they raise stay
their own, while ours remain errors.
"""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
"""The name under which pytorch-fid and clean-fid keep their network."""
BLOCKS = {64: 0, 192: 1, 768: 2, 2048: 3}


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor progress of a peer."""
    with warnings.catch_warnings(), Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1)
def peers() -> SimpleNamespace:
    """The modules `pytorch_fid.fid_score`, `torch_fidelity`, `cleanfid.fid`; skips the test where one is missing."""
    with quiet():
        _torchvision()
        for name in ("pytorch_fid.fid_score", "torch_fidelity", "cleanfid.fid"):
            pytest.importorskip(name)
        return SimpleNamespace(
            pytorch_fid=importlib.import_module("pytorch_fid.fid_score"),
            torch_fidelity=importlib.import_module("torch_fidelity"),
            cleanfid=importlib.import_module("cleanfid.fid"),
        )


@lru_cache(maxsize=1)
def _torchvision() -> Any:
    """Makes torchvision importable, which all three peers import. Returns what must stay alive, if anything.

    The package index offers one torchvision per version, built for CUDA. Beside a CPU build of torch its compiled part
    does not load, its import then stops at operators that nobody declared. Its networks and transforms, all that the
    peers use, need no compiled part: two declarations are enough. Where the compiled part loads, it declares its own.
    """
    found = importlib.util.find_spec("torchvision")
    for folder in found.submodule_search_locations or () if found else ():
        for compiled in Path(folder).glob("_C*"):
            try:
                torch.ops.load_library(str(compiled))
                return None
            except OSError:
                continue
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def install_weights(home: Path, state: Mapping[str, Tensor]) -> Path:
    """Inception's tensors as a file in the cache of a torch whose TORCH_HOME is `home`."""
    path = home / "hub" / "checkpoints" / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), path)
    return path


def pytorch_fid(a: Path, b: Path, dims: int = 2048, batch_size: int = 8) -> float:
    """FID by pytorch-fid. TORCH_HOME must be that of `install_weights`."""
    with quiet():
        score = peers().pytorch_fid.calculate_fid_given_paths
        return float(score([str(a), str(b)], batch_size, torch.device("cpu"), dims, num_workers=0))


def save_pytorch_fid(folder: Path, file: Path, dims: int = 2048, batch_size: int = 8) -> None:
    """The statistics of a folder, as `pytorch_fid --save-stats` writes them."""
    save, device = peers().pytorch_fid.save_fid_stats, torch.device("cpu")
    with quiet():
        save([str(folder), str(file)], batch_size, device, dims, num_workers=0)


def torch_fidelity(a: Path, b: Path, weights: Path, batch_size: int = 8, **metrics: Any) -> dict[str, float]:
    """Scores by torch-fidelity, `a` the generated images and `b` the real ones, by the names that it gives them."""
    settings = {"cuda": False, "cache": False, "verbose": False, "batch_size": batch_size, "save_cpu_ram": True}
    settings |= {"feature_extractor_weights_path": str(weights), **metrics}
    with quiet():
        return peers().torch_fidelity.calculate_metrics(input1=str(a), input2=str(b), **settings)


def clean_fid(a: Path, b: Path, dims: int = 2048, batch_size: int = 8) -> float:
    """FID by clean-fid in its mode `clean`. TORCH_HOME must be that of `install_weights`."""
    with quiet():
        return float(
            peers().cleanfid.compute_fid(
                str(a),
                str(b),
                mode="clean",
                num_workers=0,
                batch_size=batch_size,
                device=torch.device("cpu"),
                verbose=False,
                custom_feat_extractor=clean_features(dims),
            )
        )


@contextmanager
def cleanfid_stats(folder: Path) -> Iterator[Path]:
    """Where clean-fid keeps statistics, which is inside its own package, moved to `folder`."""
    import cleanfid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleanfid, "__file__", str(folder / "__init__.py"))
        (folder / "stats").mkdir()
        yield folder / "stats"


def make_cleanfid_stats(name: str, folder: Path, mode: str = "legacy_pytorch") -> None:
    """clean-fid's statistics of a folder under a name: one file of moments, one of features."""
    with quiet():
        peers().cleanfid.make_custom_stats(name, str(folder), mode=mode, device=torch.device("cpu"), verbose=False)


def cleanfid_reference(name: str, metric: str, mode: str = "legacy_pytorch") -> Any:
    """What clean-fid loads under a name: (mu, sigma) for FID, features for KID."""
    with quiet():
        return peers().cleanfid.get_reference_statistics(name, "na", mode=mode, split="custom", metric=metric)


def clean_features(dims: int) -> Callable[[Tensor], Tensor]:
    """Features of 299 x 299 images in 0 … 255, as clean-fid's mode `clean` takes them.

    That mode wants NVIDIA's TorchScript copy of Inception, which random weights cannot stand in for. The package has
    the same network in Python too, for its mode `legacy_pytorch`; the normalisation here is that of the script.
    """
    from cleanfid.inception_pytorch import InceptionV3

    network = InceptionV3([BLOCKS[dims]], resize_input=False, normalize_input=False).eval()
    return lambda x: network((x - 128) / 128)[0].mean((2, 3))
