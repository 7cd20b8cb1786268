"""Moments in constant memory, and statistics files: ours, pytorch-fid's, and those that must be refused."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganctl.errors import UsageError
from ganctl.metrics.statistics import PENDING, Moments, Seen, Stats, check_fit, read_stats, write_stats
from tests.cli.fid_tools import fid


def stats(n: int = 50, d: int = 6, seed: int = 0, **stamp: Any) -> Stats:
    rng = np.random.default_rng(seed)
    moments = Moments(d)
    moments.add(rng.standard_normal((n, d)) + 1)
    return moments.stats(**stamp)


OURS = {"features": "inception-2015-12-05", "mode": "clean", "weights_sha256": "ab" * 32}


# Moments


def test_moments_are_numpys_however_they_arrive() -> None:
    x = np.random.default_rng(0).standard_normal((PENDING + 400, 7)) * [1, 2, 3, 4, 5, 6, 1e3] + 1e3
    for cuts in ([], [1], list(range(37, len(x), 37)), [PENDING, PENDING + 1]):
        moments = Moments(7)
        for part in np.split(x, cuts):
            moments.add(part)
        made = moments.stats()
        np.testing.assert_allclose(made.mu, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(made.sigma, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)
        assert (made.n, made.dims) == (len(x), 7)


def test_no_moments_of_too_few_or_of_broken_features() -> None:
    moments = Moments(3)
    with pytest.raises(UsageError, match="of 0 images"):
        moments.stats()
    moments.add(np.ones((1, 3)))
    with pytest.raises(UsageError, match=r"of 1 image\. it needs at least 2"):
        moments.stats()
    for bad in (np.nan, np.inf):
        moments = Moments(3)
        moments.add(np.ones((3, 3)))
        moments.add(np.full((1, 3), bad))
        with pytest.raises(UsageError, match="some are NaN or infinite"):
            moments.stats()


# Files


def test_what_is_written_is_read(tmp_path: Path) -> None:
    seen = Seen(sizes={"28x28": 50}, formats={"png": 50}, channels={"rgb": 50}, notes={"rotated by EXIF": 1}, skipped=2)
    made = stats(**OURS, resolution=64, mirror=True, seen=seen)
    write_stats(tmp_path / "a.npz", made, {"verb": "fid"})
    read = read_stats(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.mu, made.mu)
    np.testing.assert_array_equal(read.sigma, made.sigma)
    assert {k: v for k, v in vars(read).items() if k not in ("mu", "sigma")} == {
        k: v for k, v in vars(made).items() if k not in ("mu", "sigma")
    }
    with np.load(tmp_path / "a.npz") as plain:  # for readers that know only the field's layout
        assert {"mu", "sigma", "n", "features", "mode"} <= set(plain.files)
        assert "feats" not in plain.files


def test_features_are_kept_when_asked_for_and_the_dtype_always(tmp_path: Path) -> None:
    feats = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    write_stats(tmp_path / "a.npz", stats(**OURS, dtype="bf16", feats=feats))
    read = read_stats(tmp_path / "a.npz")
    assert read.feats is not None and read.feats.dtype == np.float32 and read.dtype == "bf16"
    np.testing.assert_array_equal(read.feats, feats)
    with np.load(tmp_path / "a.npz") as plain:
        assert "feats" not in json.loads(str(plain["stamp"]))


def test_statistics_of_other_tools_are_read_and_said_to_record_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a.npz", 0), ("b.npz", 1)):
        made = stats(d=64, n=200, seed=seed)
        np.savez(name, mu=made.mu.astype(np.float32), sigma=made.sigma)
    assert read_stats("a.npz").mode is None
    # Two files need no network at all; nothing is made up in the stamp.
    heard = fid("a.npz", "b.npz", metrics="fid", dims=64)
    assert heard.value > 0
    assert {k: heard.stamp[k] for k in ("mode", "weights_sha256", "n_real", "n_fake", "features")} == {
        "mode": None,
        "weights_sha256": None,
        "n_real": None,
        "n_fake": None,
        "features": "inception-2015-12-05",
    }
    assert [w.split(" | ")[0] for w in heard.warnings] == ["'a.npz' records no protocol", "'b.npz' records no protocol"]
    assert heard.notes == [
        "fid, inception-2015-12-05, protocol unrecorded, 64 dimensions, "
        "an unrecorded number of real, an unrecorded number of fake images"
    ]
    wrong = fid("a.npz", "b.npz", metrics="fid")
    assert wrong.error is not None and wrong.error.code == 2
    assert (wrong.error.why, wrong.error.hint) == ("they have 64 dimensions, this run uses 2048", "pass --dims 64")
    # LeNet's distance is of LeNet's features, and these do not say so.
    assert "they are of a network they do not name, not lenet-mnist" in str(fid("a.npz", "b.npz").error)


def test_statistics_of_another_protocol_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_stats(Path("clean.npz"), stats(d=2048, n=4, **OURS))
    heard = fid("clean.npz", "clean.npz", metrics="fid")
    assert heard.error is not None and heard.error.code == 2
    assert heard.error.message == (
        "cannot use statistics 'clean.npz'. they were made in mode clean, this run uses legacy_tensorflow"
    )
    assert heard.error.hint == "pass --mode clean, or make them again from the images"
    kept = {"features": OURS["features"], "mode": "clean"}
    for field, value, word in (
        ("weights_sha256", "cd" * 32, "their weights differ"),
        ("resolution", 64, "their --resolution differ: none and 64"),
    ):
        write_stats(Path("a.npz"), stats(d=64, **OURS))
        write_stats(Path("b.npz"), stats(d=64, **{**OURS, field: value}))
        assert word in str(fid("a.npz", "b.npz", metrics="fid", mode="clean", dims=64).error)
    with pytest.raises(UsageError, match="they are features of clip, this run uses lenet"):
        check_fit(stats(features="clip"), source="x", features="lenet", mode="m", dims=6)
    check_fit(stats(d=6, **kept), source="x", dims=6, **kept)
    with pytest.raises(UsageError, match="they were made in bf16, this run uses fp32") as caught:
        check_fit(stats(d=6, dtype="bf16", **kept), source="x", dims=6, **kept)
    assert caught.value.hint.startswith("pass --dtype bf16")
    check_fit(stats(d=6, dtype="bf16", **kept), source="x", dims=6, dtype="bf16", **kept)
    check_fit(stats(d=6), source="x", dims=6, dtype="bf16", **kept)


def _edited(**changes: Any) -> dict[str, np.ndarray]:
    made = stats()
    fields: dict[str, Any] = {"mu": made.mu, "sigma": made.sigma, **changes}
    return {k: v for k, v in fields.items() if v is not None}


def _sigma(**cells: float) -> np.ndarray:
    sigma = np.eye(6)
    for cell, value in cells.items():
        sigma[int(cell[1]), int(cell[2])] = value
    return sigma


def _stamp(**changes: Any) -> np.ndarray:
    seen = {"sizes": {}, "formats": {}, "channels": {}, "notes": {}, "skipped": 0}
    return np.array(json.dumps({"n": 50, "features": "f", "mode": "m", "seen": seen, **changes}))


BROKEN = {
    "no sigma": (_edited(sigma=None), "it lacks 'sigma', it has 'mu'"),
    "latents": ({"z": np.zeros((2, 3)), "w": np.zeros(3)}, "it lacks 'mu', 'sigma', it has 'w', 'z'"),
    "rank": (_edited(mu=np.zeros((6, 1))), r"mu has shape \(6, 1\) and sigma \(6, 6\)"),
    "not square": (_edited(sigma=np.eye(6)[:5]), r"sigma \(5, 6\)"),
    "empty": (_edited(mu=np.zeros(0), sigma=np.zeros((0, 0))), "not \\(d,\\)"),
    "NaN": (_edited(mu=np.full(6, np.nan)), "'mu' holds NaN or infinity"),
    "infinity": (_edited(sigma=_sigma(s00=np.inf)), "'sigma' holds NaN or infinity"),
    "integers": (_edited(mu=np.zeros(6, int)), "mu and sigma are int64 and float64, not floating-point"),
    "complex": (_edited(sigma=np.eye(6) * 1j), "complex128, not floating-point"),
    "text": (_edited(mu=np.array(["a"] * 6)), "not floating-point"),
    "asymmetric": (_edited(sigma=_sigma(s01=0.5)), "sigma is not symmetric: mirrored entries differ by up to 0.5"),
    "huge and asymmetric": (_edited(sigma=_sigma(s01=1.7e308, s10=-1.7e308)), "sigma is not symmetric"),
    "negative variance": (_edited(sigma=_sigma(s22=-1)), r"sigma has a negative variance \(-1\)"),
    "no covariance": (_edited(sigma=_sigma(s01=2, s10=2)), "an entry is larger than its two variances allow"),
    "one image": (_edited(stamp=_stamp(n=1)), "it was made from 1 images; statistics need at least 2"),
    "stamp of numbers": (_edited(stamp=np.zeros(3)), "its record of how it was made is damaged"),
    "stamp of nonsense": (_edited(stamp=np.array("{")), "record of how it was made is damaged"),
    "stamp without seen": (_edited(stamp=np.array("{}")), "record of how it was made is damaged"),
    "stamp with more": (_edited(stamp=_stamp(mu=3)), "record of how it was made is damaged"),
    "stamp of other types": (_edited(stamp=_stamp(n="many")), "record of how it was made is damaged"),
    "stamp of features": (_edited(stamp=_stamp(feats=[[1.0]])), "record of how it was made is damaged"),
    "stamp without a dtype": (_edited(stamp=_stamp(dtype=None)), "record of how it was made is damaged"),
    "features of other dimensions": (_edited(feats=np.zeros((50, 5))), r"mu has 6 dimensions and feats 5"),
    "features of other images": (
        _edited(stamp=_stamp(), feats=np.zeros((49, 6))),
        r"feats has shape \(49, 6\), not \(50, d\)",
    ),
    "integers as features": (_edited(feats=np.zeros((50, 6), int)), "feats are int64, not floating-point"),
    "deep stamp": (_edited(stamp=np.array("[" * 100_000)), "record of how it was made is damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_are_no_statistics_is_refused(name: str, tmp_path: Path) -> None:
    arrays, why = BROKEN[name]
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    with pytest.raises(UsageError, match=why) as caught:
        read_stats(tmp_path / "x.npz")
    assert "x.npz'" in caught.value.what and caught.value.code == 2


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_stats(path, stats(**OURS))
    whole = path.read_bytes()
    for cut in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UsageError):
            read_stats(path)
    # A flipped bit inside an array's data is caught by the archive's own check sum.
    with zipfile.ZipFile(io.BytesIO(whole)) as z:
        at = z.getinfo("mu.npy").header_offset + 30 + len("mu.npy") + 140
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UsageError, match=r"it is not a whole \.npz file"):
        read_stats(path)
    for other, why in ((b"\x89PNG\r\n", "it is not an .npz file"), (b"", "it is not an .npz file")):
        path.write_bytes(other)
        with pytest.raises(UsageError, match=why):
            read_stats(path)
    with pytest.raises(UsageError, match="there is no such file"):
        read_stats(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="it is not a regular file"):
        read_stats(tmp_path)


def test_objects_in_a_file_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "x.npz", mu=np.array([Trap()], dtype=object), sigma=np.eye(1))
    with pytest.raises(UsageError, match="no array of numbers or text"):
        read_stats(tmp_path / "x.npz")
    assert not (tmp_path / "sprung").exists()


def test_absurd_moments_give_a_sentence_not_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", mu=np.full(64, 1e200), sigma=np.eye(64))
    np.savez("b.npz", mu=np.zeros(64), sigma=np.eye(64) * 1e308)
    # Passes the cheap checks of a file, and is no covariance all the same: its eigenvalues are 1.9 and -0.8.
    crooked = np.eye(64)
    crooked[:3, :3] = [[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]
    np.savez("c.npz", mu=np.zeros(64), sigma=crooked)
    np.savez("d.npz", mu=np.zeros(64), sigma=np.eye(64))
    for name, why in (("a", "too large for a number"), ("b", "too large for a number"), ("c", "not a covariance")):
        for pair in ((f"{name}.npz", "d.npz"), ("d.npz", f"{name}.npz")):
            heard = fid(*pair, metrics="fid", dims=64)
            assert heard.error is not None and heard.error.code == 2
            assert heard.error.what == f"cannot compare '{pair[0]}' with '{pair[1]}' by fid"
            assert why in heard.error.why
            assert not heard.results
