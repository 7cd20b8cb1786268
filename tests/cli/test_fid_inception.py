"""`ganctl fid` over Inception by the real road: pulled from a server, hash-checked, converted, then used offline.

The weights are random (tests/golden/inception_weights.py), the network and everything around it are not: scores equal
those that pytorch-fid, torch-fidelity and clean-fid gave with the same weights.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ganctl import catalog
from ganctl.errors import UsageError
from ganctl.metrics.features import inception_extractor
from ganctl.metrics.statistics import Moments
from ganctl.nn.features.inception import Inception
from tests.cli.fid_tools import fid, pictures, pixels
from tests.conftest import ROOT, Shell, Tiny, golden
from tests.golden import inception_weights
from tests.zoo.hubserver import Hub, serve

pytestmark = pytest.mark.xdist_group("inception")

EXCERPT = "inception_excerpt.safetensors"
NAME = "inception-2015-12-05"


@dataclass
class Served:
    """The authors' file on a server of ours, and the zoo that names it."""

    hub: Hub
    zoo: Path
    cache: Path
    """Empty until the first pull; shared by all tests, as one user's cache is."""

    def entry(self, zoo: Path, data: bytes) -> Path:
        """The zoo of the package, its Inception entry pointing at the server."""
        self.hub.files["pt_inception.pth"] = data
        pinned = (ROOT / "zoo.yaml").read_text().partition(f"{NAME}:")[0]
        zoo.write_text(
            f"{pinned}{NAME}:\n  model: inception\n  weights:\n    upstream:\n"
            f"      url: {self.hub.url}/upstream/pt_inception.pth\n      sha256: '{hashlib.sha256(data).hexdigest()}'\n"
            f"      bytes: {len(data)}\n      format: torch-state-dict\n"
            f"  card: {{task: features, license: Apache-2.0, trained_on: nothing}}\n"
        )
        return zoo


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("inception")
    state = dict(inception_weights.state(golden(EXCERPT)))
    # Copies of the published file differ in these counters, which mean nothing.
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(7)
    file = io.BytesIO()
    torch.save(state, file)
    with serve() as hub:
        made = Served(hub, folder / "zoo.yaml", folder / "cache")
        made.entry(made.zoo, file.getvalue())
        yield made


@pytest.fixture
def shell(ganctl: Shell, served: Served, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The command line, and this process, with the served zoo and its cache."""
    ganctl.env |= {"GANCTL_ZOO": str(served.zoo), "GANCTL_CACHE": str(served.cache)}
    monkeypatch.setenv("GANCTL_ZOO", str(served.zoo))
    monkeypatch.setenv("GANCTL_CACHE", str(served.cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(ganctl.folder)
    return ganctl


@pytest.fixture
def pulled(shell: Shell, served: Served) -> Shell:
    if not (served.cache / "bundles").exists():
        shell.ok("zoo", "pull", NAME)
    return shell


def test_the_zoo_pins_the_published_file() -> None:
    """One file serves pytorch-fid and torch-fidelity; its published name begins its sha256."""
    entry = catalog.entries()[NAME]
    assert entry.upstream is not None
    assert entry.upstream.url.endswith("/fid_weights/pt_inception-2015-12-05-6726825d.pth")
    assert entry.upstream.sha256.startswith("6726825d") and len(entry.upstream.sha256) == 64
    assert (entry.upstream.bytes, entry.upstream.format, entry.task) == (95628359, "torch-state-dict", "features")


def test_offline_then_pulled_then_used(shell: Shell, served: Served) -> None:
    pictures(shell.folder / "real", pixels(4, 0))
    pictures(shell.folder / "fake", pixels(3, 1))
    missing = shell("fid", "real", "fake", "--offline")
    assert (missing.code, missing.out) == (4, "")
    assert " hint: ganctl zoo pull inception-2015-12-05\n" in missing.err
    done = shell.ok("zoo", "pull", NAME)
    assert done.lines[0].startswith(f"{NAME}\tpulled\t")
    assert served.hub.gets("pt_inception") == 1

    done = shell.ok("fid", "real", "fake", "--offline", "--json", "--no-progress")
    stamp = json.loads(done.out)
    _, meta = inception_weights.arrays(golden(EXCERPT))
    wanted = {
        "mode": "legacy_tensorflow",
        "dims": 2048,
        "features": NAME,
        "weights_sha256": meta["weights_sha256"],
        "n_real": 4,
        "n_fake": 3,
        "sizes": {"real": {"28x28": 4}, "fake": {"28x28": 3}},
    }
    assert {k: stamp[k] for k in wanted} == wanted
    assert done.err.splitlines()[-1] == f"fid, {NAME}, legacy_tensorflow, 2048 dimensions, 4 real, 3 fake images"
    assert "warning: 'real' was converted to rgb\n    why: 4 grey images were repeated to RGB\n" in done.err
    # Far fewer images than dimensions: a real, finite number.
    assert stamp["fid"] > 0
    # The real side is remembered by its listing, so its statistics cost no second pass.
    kept = fid(Path("real"), metrics="fid", save_stats="real.npz")
    assert (kept.stamp["n"], kept.stamp["mode"], kept.stamp["status"]) == (4, "legacy_tensorflow", "written")
    assert served.hub.gets("pt_inception") == 1


@pytest.mark.parametrize(
    ("mode", "dims", "tool"),
    [
        ("legacy_tensorflow", 64, "torchfidelity.fid_layer_64"),
        ("legacy_pytorch", 64, "pytorchfid.fid_dims_64"),
    ],
)
def test_the_value_is_the_reference_tools(pulled: Shell, mode: str, dims: int, tool: str) -> None:
    recorded, _ = inception_weights.arrays(golden("inception_image_set_metrics.safetensors"))
    sides = [pictures(Path(s), recorded[f"in.set_{s}"].transpose(0, 2, 3, 1)) for s in "ab"]
    found = fid(sides[1], sides[0], metrics="fid", mode=mode, dims=dims)
    assert found.stamp["mode"] == mode
    assert found.value == pytest.approx(float(recorded[f"out.{tool}"]), rel=1e-4)


def test_protocols_differ_and_do_not_mix(pulled: Shell, tiny: Tiny) -> None:
    real = pictures(Path("real"), pixels(12, 0, (40, 56), 3))
    fake = pictures(Path("fake"), pixels(10, 1, (40, 56), 3))
    settings = {"metrics": "fid", "dims": 64}
    values = {m: fid(real, fake, mode=m, **settings) for m in ("legacy_tensorflow", "legacy_pytorch", "clean")}
    assert len({round(v.value, 6) for v in values.values()}) == 3
    assert {v.stamp["mode"] for v in values.values()} == set(values)
    assert fid(real, fake, **settings).value == values["legacy_tensorflow"].value
    for options in ({"batch_size": 3, "workers": 0}, {"batch_size": 5, "workers": 3, "cache": False}):
        again = fid(real, fake, mode="clean", **settings, **options)
        assert again.value == pytest.approx(values["clean"].value, rel=1e-4)
    fid(real, mode="clean", save_stats="clean.npz", **settings)
    assert fid("clean.npz", fake, mode="clean", **settings).value == pytest.approx(values["clean"].value, rel=1e-6)
    wrong = fid("clean.npz", fake, **settings)
    assert wrong.error is not None and wrong.error.code == 2
    assert "they were made in mode clean, this run uses legacy_tensorflow" in wrong.error.message
    assert wrong.error.hint.startswith("pass --mode clean")
    assert "pass --dims 64" in str(fid("clean.npz", fake, metrics="fid", mode="clean").error.hint)  # type: ignore[union-attr]
    # A model, and LeNet beside Inception, in one pass; each under its own name.
    bundle = tiny("dcgan", resolution=16, channels=3, ngf=4, ndf=4, z_dim=8)
    few = pictures(Path("few"), pixels(2, 0, (40, 56), 3))
    both = fid(few, bundle, metrics="fid,fd-lenet", num=2)
    assert [(r["metric"], r["n_fake"], r["dims"]) for r in both.results] == [("fid", 2, 2048), ("fd-lenet", 2, 84)]
    assert any("have different sizes" in w for w in both.warnings)


def test_another_network_under_the_name_is_refused(shell: Shell, served: Served, tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 2048)}, file)
    kept = dict(served.hub.files)
    zoo = served.entry(tmp_path / "other.yaml", file.getvalue())
    real = pictures(shell.folder / "real", pixels(3, 0))
    env = {"GANCTL_ZOO": str(zoo), "GANCTL_CACHE": str(tmp_path / "cache")}
    done = shell("fid", real, real, **env)
    served.hub.files.update(kept)
    assert (done.code, done.out) == (4, "")
    assert f"error: cannot use weights of {NAME}\n" in done.err
    assert "'fc.weight' has shape (1000, 2048), the network needs (1008, 2048)" in done.err
    assert "missing: 'Conv2d_1a_3x3.conv.weight'" in done.err and "unexpected: 'conv1.weight'" in done.err


def test_features_that_overflow_are_no_score() -> None:
    """Weights may be finite and their features not: that is said, and no number printed."""
    state = inception_weights.state(golden(EXCERPT))
    net = Inception()
    net.load_state_dict({k: v * 1e20 if k.endswith("conv.weight") else v for k, v in state.items()})
    extractor = inception_extractor(net, "", mode="clean", dims=192, device=torch.device("cpu"))
    features = extractor.extract([extractor.prepare(i) for i in pixels(3, 0, channels=3)])
    assert not features.isfinite().all()
    moments = Moments(192)
    moments.add(features.numpy())
    with pytest.raises(UsageError, match="NaN or infinite"):
        moments.stats()
