"""Statistics files of NVIDIA's tools, guided-diffusion and torch-fidelity, made here in their layouts, and broken ones.

Files that pytorch-fid, clean-fid and torch-fidelity themselves wrote are read in tests/parity.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.metrics.foreign import mode_in_name
from ganctl.metrics.kid import kernel_distance
from ganctl.metrics.precision_recall import precision_recall
from ganctl.metrics.statistics import Stats, read_stats
from ganctl.metrics.two_sample import two_sample
from tests.cli.fid_tools import fid

FEATURES = np.abs(np.random.default_rng(3).standard_normal((40, 6)) + 2).astype(np.float32)
MU, SIGMA = FEATURES.astype(np.float64).mean(0), np.cov(FEATURES, rowvar=False, dtype=np.float64)


def is_theirs(stats: Stats, n: int | None = 40) -> None:
    """The moments of FEATURES, in our convention, and no claim that the file does not make."""
    np.testing.assert_allclose(stats.mu, MU, rtol=1e-12)
    np.testing.assert_allclose(stats.sigma, SIGMA, rtol=1e-9, atol=1e-12)
    assert (stats.n, stats.features, stats.mode, stats.weights_sha256) == (n, None, None, None)


def stylegan(**changes: Any) -> dict[str, Any]:
    """A FeatureStats of StyleGAN2-ADA and 3, as `save` pickles it."""
    x = FEATURES.astype(np.float64)
    return {
        "capture_all": False,
        "capture_mean_cov": True,
        "max_items": 40,
        "num_items": 40,
        "num_features": 6,
        "all_features": [],
        "raw_mean": x.sum(0),
        "raw_cov": x.T @ x,
        **changes,
    }


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_stylegans_cache(tmp_path: Path, protocol: int) -> None:
    read = read_stats(dumped(tmp_path / "ffhq-inception-2015-12-05-0a1b.pkl", stylegan(), protocol))
    is_theirs(read)
    assert read.feats is None
    # For KID the same class keeps the features, and may leave the sums at zero.
    kid = stylegan(
        capture_all=True,
        capture_mean_cov=False,
        all_features=[FEATURES[:7], FEATURES[7:]],
        raw_mean=np.zeros(6),
        raw_cov=np.zeros((6, 6)),
    )
    read = read_stats(dumped(tmp_path / "kid.PKL", kid, protocol))
    is_theirs(read)
    assert read.feats is not None
    np.testing.assert_array_equal(read.feats, FEATURES)


def test_edm_edm2_and_guided_diffusion(tmp_path: Path) -> None:
    np.savez(tmp_path / "edm.npz", mu=MU, sigma=SIGMA)
    is_theirs(read_stats(tmp_path / "edm.npz"), n=None)
    edm2 = {"num_images": 40, "fid": {"mu": MU, "sigma": SIGMA}, "fd_dinov2": {"mu": np.ones(9), "sigma": np.eye(9)}}
    is_theirs(read_stats(dumped(tmp_path / "edm2.pkl", edm2)))
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    extra = {"mu_s": np.ones(9), "sigma_s": np.full((9, 9), np.nan)}
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=images, mu=MU, sigma=SIGMA, **extra)
    is_theirs(read_stats(tmp_path / "VIRTUAL.npz"), n=None)
    np.savez(tmp_path / "samples.npz", arr_0=images)
    with pytest.raises(UsageError, match="it lacks 'mu', 'sigma', it has 'arr_0'"):
        read_stats(tmp_path / "samples.npz")


def test_the_images_of_a_reference_file_are_left_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be gigabytes; only what is read counts against the limit."""
    monkeypatch.setattr("ganctl.io.arrays.MAX_NPZ_BYTES", 4096)
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((10, 16, 16, 3), np.uint8), mu=MU, sigma=SIGMA)
    is_theirs(read_stats(tmp_path / "x.npz"), n=None)
    np.savez(tmp_path / "y.npz", mu=np.zeros(600), sigma=SIGMA)
    with pytest.raises(UsageError, match="larger than"):
        read_stats(tmp_path / "y.npz")


def test_torch_fidelitys_cache(tmp_path: Path) -> None:
    torch.save({"mu": MU, "sigma": SIGMA}, tmp_path / "a-inception-v3-compat-stat-fid-2048.pt")
    is_theirs(read_stats(tmp_path / "a-inception-v3-compat-stat-fid-2048.pt"), n=None)
    torch.save(torch.from_numpy(FEATURES), tmp_path / "a-inception-v3-compat-features-2048.pt")
    read = read_stats(tmp_path / "a-inception-v3-compat-features-2048.pt")
    is_theirs(read)
    assert read.feats is not None and (read.feats == FEATURES).all()


def test_features_alone_have_their_moments(tmp_path: Path) -> None:
    """clean-fid's file for KID, longer than one fold of the running moments."""
    feats = np.random.default_rng(0).standard_normal((2500, 5)).astype(np.float32) + 3
    np.savez_compressed(tmp_path / "x_clean_custom_na_kid.npz", feats=feats)
    read = read_stats(tmp_path / "x_clean_custom_na_kid.npz")
    np.testing.assert_allclose(read.mu, feats.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(read.sigma, np.cov(feats, rowvar=False, dtype=np.float64), rtol=1e-9, atol=1e-12)
    assert read.n == 2500 and read.feats is not None and read.feats.dtype == np.float32


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a network": (".pkl", lambda p: dumped(p, {"G": 1, "D": None, "G_ema": 2}), "it holds 'G', 'D', 'G_ema', and no"),
    "nothing": (".pkl", lambda p: dumped(p, {}), "it holds nothing, and no statistics"),
    "a list": (".pkl", lambda p: dumped(p, [1, 2]), "the matrix is no array of floating-point numbers"),
    "a call": (".pkl", lambda p: dumped(p, {"mu": print}), r"refers to|builtins\.print|print"),
    "cut": (".pkl", lambda p: p.write_bytes(pickle.dumps(stylegan())[:-40]), "damaged|cut|ends"),
    "empty": (".pkl", lambda p: p.write_bytes(b""), "empty"),
    "one image": (".pkl", lambda p: dumped(p, stylegan(num_items=1)), "it was made from 1 images"),
    "no count": (".pkl", lambda p: dumped(p, stylegan(num_items=None)), "made from an unknown number of images"),
    "odd count": (".pkl", lambda p: dumped(p, stylegan(num_items="many")), "its number of images is no number"),
    "unfilled": (".pkl", lambda p: dumped(p, stylegan(raw_mean=None)), "raw_mean is no array"),
    "no capture": (".pkl", lambda p: dumped(p, stylegan(capture_mean_cov=False)), "neither moments nor features"),
    "no batches": (".pkl", lambda p: dumped(p, stylegan(capture_all=True)), "keeps all features, and holds none"),
    "ragged": (
        ".pkl",
        lambda p: dumped(p, stylegan(capture_all=True, all_features=[FEATURES, FEATURES[:, :3]])),
        "batches of features have different shapes",
    ),
    "fewer features": (
        ".pkl",
        lambda p: dumped(p, stylegan(capture_all=True, all_features=[FEATURES[:9]])),
        r"feats has shape \(9, 6\), not \(40, d\)",
    ),
    "shapes": (".pkl", lambda p: dumped(p, stylegan(raw_cov=np.eye(5))), r"raw_mean has shape \(6,\) and raw_cov"),
    "huge": (".pkl", lambda p: dumped(p, stylegan(raw_mean=np.full(6, 1e300))), "too large for a number"),
    "NaN": (".pkl", lambda p: dumped(p, stylegan(raw_mean=np.full(6, np.nan))), "raw_mean holds NaN or infinity"),
    "asymmetric": (".pkl", lambda p: dumped(p, {"mu": MU, "sigma": np.triu(SIGMA)}), "sigma is not symmetric"),
    "integers": (".pkl", lambda p: dumped(p, {"mu": np.arange(6), "sigma": SIGMA}), "mu is no array of floating-point"),
    "one row": (".pt", lambda p: torch.save(torch.ones(1, 6), p), "cannot take statistics of 1 image"),
    "a vector": (".pt", lambda p: torch.save(torch.ones(6), p), r"feats has shape \(6,\), not \(n, d\)"),
    "weights": (".pt", lambda p: torch.save({"a.weight": torch.ones(2)}, p), "it holds 'a.weight', and no statistics"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_are_no_statistics_is_refused(name: str, tmp_path: Path) -> None:
    suffix, write, why = REFUSED[name]
    path = tmp_path / f"x{suffix}"
    write(path)
    with pytest.raises(UsageError, match=why) as caught:
        read_stats(path)
    assert caught.value.code == 2
    assert ("ganctl convert" in caught.value.hint) == (name == "a network")
    with pytest.raises(UsageError, match=r"(?i)no such file"):
        read_stats(tmp_path / f"none{suffix}")


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    with pytest.raises(UsageError):
        read_stats(dumped(tmp_path / "x.pkl", {"mu": Trap(), "sigma": SIGMA}))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("ffhq_clean_trainval_1024.npz", "clean"),
        ("a/b_c_legacy_tensorflow_custom_na.npz", "legacy_tensorflow"),
        ("cifar10_legacy_pytorch_test_32_kid.npz", "legacy_pytorch"),
        ("clean.npz", None),
        ("my_clean_set.npz", None),
        ("x_clean_clip_vit_b_32_custom_na.npz", None),
    ],
)
def test_the_name_of_a_clean_fid_file_says_its_mode(name: str, mode: str | None) -> None:
    assert mode_in_name(name) == mode


def test_a_warning_tells_the_mode_that_a_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and not acted upon: files get renamed."""
    monkeypatch.chdir(tmp_path)
    feats = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    np.savez("set_clean_custom_na_kid.npz", feats=feats)
    dumped(Path("other.pkl"), {"num_images": 100, "fid": {"mu": feats.mean(0), "sigma": np.cov(feats, rowvar=False)}})
    heard = fid("set_clean_custom_na_kid.npz", "other.pkl", metrics="fid", dims=64)
    assert heard.value == pytest.approx(0, abs=1e-4)
    assert (heard.stamp["n_real"], heard.stamp["n_fake"], heard.stamp["mode"]) == (100, 100, None)
    said = {w.split(" | ")[0]: w.split(" | ")[1] for w in heard.warnings}
    taken = "it is taken to match this run's network and mode"
    assert said["'set_clean_custom_na_kid.npz' records no protocol"] == f"{taken}; its name says clean"
    assert said["'other.pkl' records no protocol"] == taken


def test_features_serve_every_metric_and_moments_the_distance_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    real, fake = (np.abs(rng.standard_normal((90, 64)) + shift).astype(np.float32) for shift in (0, 0.5))
    np.savez("real_kid.npz", feats=real)
    torch.save(torch.from_numpy(fake), "fake.pt")
    heard = fid("real_kid.npz", "fake.pt", metrics="fid,kid,pr,dc,c2st", dims=64, kid_subset_size=50)
    assert heard.error is None
    found = {result["metric"]: result[result["metric"]] for result in heard.results}
    assert found["kid"] == pytest.approx(kernel_distance(real, fake, subset_size=50)[0], rel=1e-9)
    assert (found["precision"], found["recall"]) == precision_recall(real, fake)
    assert (found["c2st_log_loss"], found["c2st_auc"]) == two_sample(real, fake)
    assert found["fid"] > 1
    np.savez("moments.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    assert fid("moments.npz", "fake.pt", metrics="fid", dims=64).value == pytest.approx(found["fid"], rel=1e-4)
    refused = fid("moments.npz", "fake.pt", metrics="kid", dims=64)
    assert refused.error is not None and refused.error.code == 2
    assert refused.error.what == "cannot take kid of statistics 'moments.npz'"
    assert "it needs the features" in refused.error.why
