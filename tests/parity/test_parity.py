"""`ganctl fid` against pytorch-fid, torch-fidelity and clean-fid: the same image files, the same weights, run here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.io.arrays import npz_names
from ganctl.metrics.features import inception as inception_network
from ganctl.metrics.features import inception_extractor
from ganctl.metrics.statistics import read_stats, write_stats
from tests.cli.fid_tools import fid, pixels
from tests.parity import peers
from tests.parity.installed import inception, recorded, save

pytestmark = pytest.mark.xdist_group("parity")

CLOSE = 1e-3
"""Absolute: the third digit after the point, one more than papers print."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    peers.peers()
    with inception(tmp_path_factory.mktemp("parity")) as path:
        yield path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """PNG and JPEG, square and not, in each of two folders."""
    folder, images = tmp_path_factory.mktemp("mixed"), recorded()
    sides = []
    for i, side in enumerate("ab"):
        squares = images[f"in.set_{side}"].transpose(0, 2, 3, 1)
        save(folder / side, squares[:5])
        save(folder / side, squares[5:9], "jpg")
        save(folder / side, pixels(4, i, (60, 96), channels=3))
        sides.append(save(folder / side, pixels(2, 10 + i, (75, 40), channels=3), "jpg"))
    return sides[0], sides[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The golden sets, three images of each."""
    folder, images = tmp_path_factory.mktemp("small"), recorded()
    a, b = (save(folder / side, images[f"in.set_{side}"][:3].transpose(0, 2, 3, 1)) for side in "ab")
    return a, b


def _torch_fidelity(a: Path, b: Path, weights: Path, dims: int, batch_size: int) -> float:
    found = peers.torch_fidelity(a, b, weights, batch_size, fid=True, feature_layer_fid=str(dims))
    return found["frechet_inception_distance"]


PEERS: dict[str, Callable[..., float]] = {
    "legacy_pytorch": lambda a, b, weights, dims, batch: peers.pytorch_fid(a, b, dims, batch),
    "legacy_tensorflow": _torch_fidelity,
    "clean": lambda a, b, weights, dims, batch: peers.clean_fid(a, b, dims, batch),
}


@pytest.mark.parametrize("mode", PEERS)
def test_fid_of_mixed_folders_is_the_peers(mode: str, weights: Path, mixed: tuple[Path, Path]) -> None:
    """The peers' loaders stack a batch as it comes, so that images of several sizes go one by one."""
    theirs = PEERS[mode](*mixed, weights, 64, 1)
    ours = fid(*mixed, metrics="fid", mode=mode, dims=64, cache=False)
    assert theirs > 0.1
    assert ours.value == pytest.approx(theirs, abs=CLOSE)
    assert ours.stamp["n_real"] == ours.stamp["n_fake"] == 15


@pytest.mark.parametrize("mode", PEERS)
def test_fid_of_the_golden_sets_is_the_peers(mode: str, weights: Path, small: tuple[Path, Path]) -> None:
    """Through most of the network, and with far fewer images than dimensions."""
    theirs = PEERS[mode](*small, weights, 768, 3)
    ours = fid(*small, metrics="fid", mode=mode, dims=768, cache=False)
    assert theirs > 1
    assert ours.value == pytest.approx(theirs, abs=CLOSE)


def test_kid_precision_and_recall_are_torch_fidelitys(weights: Path, mixed: tuple[Path, Path]) -> None:
    """One pass of each over the same files; the subsets of KID are drawn alike."""
    fake, real = mixed
    layers = {f"feature_layer_{metric}": "64" for metric in ("kid", "prc")}
    layers["feature_extractor"] = "inception-v3-compat"  # by itself it takes precision and recall from VGG-16
    kid = {"kid_subsets": 10, "kid_subset_size": 12}
    theirs = peers.torch_fidelity(fake, real, weights, 1, kid=True, prc=True, **kid, **layers)
    ours = fid(real, fake, metrics="kid,pr", dims=64, cache=False, **kid)
    assert ours.error is None
    found = {result["metric"]: result for result in ours.results}
    # It adds KID up in float32.
    for name, value in (("mean", found["kid"]["kid"]), ("std", found["kid"]["std"])):
        assert value == pytest.approx(theirs[f"kernel_inception_distance_{name}"], abs=1e-4, rel=1e-3), name
    for name in ("precision", "recall"):
        assert found[name][name] == pytest.approx(theirs[name], abs=1e-6), name


# Files


def test_files_of_pytorch_fid(weights: Path, mixed: tuple[Path, Path], tmp_path: Path) -> None:
    """What it saves, ganctl reads; what ganctl saves, it reads: four ways to one value."""
    theirs, ours = tmp_path / "theirs.npz", tmp_path / "ours.npz"
    peers.save_pytorch_fid(mixed[0], theirs, 64, 1)
    settings = {"metrics": "fid", "mode": "legacy_pytorch", "dims": 64, "cache": False}
    assert fid(mixed[0], save_stats=str(ours), **settings).error is None
    a, b = read_stats(theirs), read_stats(ours)
    np.testing.assert_allclose(a.mu, b.mu, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a.sigma, b.sigma, rtol=1e-3, atol=1e-4)
    assert (a.n, a.mode, b.n, b.mode) == (None, None, 15, "legacy_pytorch")
    wanted = peers.pytorch_fid(theirs, mixed[1], 64, 1)
    assert wanted > 0.1
    assert peers.pytorch_fid(ours, mixed[1], 64, 1) == pytest.approx(wanted, abs=CLOSE)
    assert fid(theirs, mixed[1], **settings).value == pytest.approx(wanted, abs=CLOSE)
    assert peers.pytorch_fid(ours, theirs, 64, 1) == pytest.approx(0, abs=CLOSE)


def test_files_of_clean_fid(weights: Path, small: tuple[Path, Path], tmp_path: Path) -> None:
    """Its own names, its own writer, its own reader."""
    with peers.cleanfid_stats(tmp_path) as stats:
        peers.make_cleanfid_stats("set", small[0])
        moments, feats = stats / "set_legacy_pytorch_custom_na.npz", stats / "set_legacy_pytorch_custom_na_kid.npz"
        assert (npz_names(moments), npz_names(feats)) == (["mu", "sigma"], ["feats"])
        a, b = read_stats(moments), read_stats(feats)
        np.testing.assert_allclose(a.mu, b.mu, rtol=1e-6)
        np.testing.assert_allclose(a.sigma, b.sigma, rtol=1e-6, atol=1e-9)
        assert b.feats is not None
        assert (a.n, b.n, b.feats.shape) == (None, 3, (3, 2048))

        write_stats(stats / "ours_legacy_pytorch_custom_na.npz", b)
        write_stats(stats / "ours_legacy_pytorch_custom_na_kid.npz", b)
        mu, sigma = peers.cleanfid_reference("ours", "FID")
        np.testing.assert_array_equal(mu, b.mu)
        np.testing.assert_array_equal(sigma, b.sigma)
        np.testing.assert_array_equal(peers.cleanfid_reference("ours", "KID"), b.feats)


def test_files_of_torch_fidelity(weights: Path, mixed: tuple[Path, Path], tmp_path: Path) -> None:
    """Its cache: moments, and the features themselves."""
    names = {"input1_cache_name": "one", "input2_cache_name": "two", "cache": True, "cache_root": str(tmp_path)}
    found = peers.torch_fidelity(*mixed, weights, 1, fid=True, feature_layer_fid="64", **names)
    wanted = found["frechet_inception_distance"]
    files = {p.name: p for p in tmp_path.iterdir()}
    for kind, n in (("stat-fid", None), ("features", 15)):
        one, two = (files[f"{name}-inception-v3-compat-{kind}-64.pt"] for name in ("one", "two"))
        heard = fid(two, one, metrics="fid", dims=64)
        assert heard.value == pytest.approx(wanted, abs=CLOSE)
        assert (heard.stamp["n_real"], heard.stamp["mode"]) == (n, None)


# Recorded numbers


def test_features_that_the_tools_recorded(weights: Path) -> None:
    """All 2048 of the first images, before any distance hides a difference."""
    images = recorded()
    tools = {"legacy_tensorflow": "out.features_a.2048", "clean": "out.cleanfid.features_a_first8"}
    net, digest = inception_network()
    for mode, name in tools.items():
        extractor = inception_extractor(net, digest, mode=mode, dims=2048, device=torch.device("cpu"))
        found = extractor.extract([extractor.prepare(i) for i in images["in.set_a"][:3].transpose(0, 2, 3, 1)])
        np.testing.assert_allclose(found.numpy(), images[name][:3], rtol=1e-4, atol=1e-4, err_msg=mode)
        if mode == "legacy_tensorflow":  # what the Inception Score is made of
            logits = net.logits(found, bias=False).numpy()
            np.testing.assert_allclose(logits, images["out.features_a.logits_unbiased"][:3], rtol=1e-4, atol=1e-3)
