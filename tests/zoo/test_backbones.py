"""The feature networks by the real road: pulled from a server, hash-checked, converted, then used by LPIPS."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError, WeightsError
from ganctl.io.bundle import read_bundle
from ganctl.load import family, load
from ganctl.metrics.features import tensors_sha256
from ganctl.metrics.perceptual import open_lpips, open_vgg16
from tests.cli.fid_tools import pictures
from tests.conftest import ROOT, golden
from tests.golden import lpips_weights
from tests.golden.inception_weights import arrays
from tests.zoo.conftest import World

CPU = torch.device("cpu")
NAME = "squeezenet1-1-imagenet"
FILE = "squeezenet1_1-b8a52dc0.pth"


def entry(name: str) -> str:
    """One entry of the package's zoo, as it is written there."""
    text = (ROOT / "zoo.yaml").read_text()
    return text[text.index(f"\n{name}:") + 1 :].partition("\n\n")[0] + "\n"


@pytest.fixture
def served(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The package's entries of SqueezeNet and its heads; its file comes from our server, of random weights."""
    state = lpips_weights.backbone_state("squeeze")
    # The published file has a classifier too.
    state |= {"classifier.1.weight": torch.ones(1000, 512, 1, 1), "classifier.1.bias": torch.ones(1000)}
    file = io.BytesIO()
    torch.save(state, file)
    data = file.getvalue()
    published = "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b"
    text = entry(NAME).replace(f"https://download.pytorch.org/models/{FILE}", f"{world.hub.url}/upstream/{FILE}")
    text = text.replace(published, hashlib.sha256(data).hexdigest()).replace("bytes: 4958839", f"bytes: {len(data)}")
    world.hub.files[FILE] = data
    world.zoo(text + entry("lpips-squeeze") + entry("lenet-mnist") + entry("vgg19-imagenet"))
    for key in ("GANCTL_ZOO", "GANCTL_CACHE", "HF_HOME"):
        monkeypatch.setenv(key, world.env[key])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return world


def test_pulled_for_metrics_then_lpips_measures_with_it(served: World) -> None:
    with pytest.raises(WeightsError) as missing:
        open_lpips("squeeze", device=CPU)
    assert f"ganctl zoo pull {NAME}" in missing.value.hint
    # Everything of task features that a metric reads, and nothing else; what is built in is there already.
    done = served.run("zoo", "pull", "--metrics", "--json")
    assert done.returncode == 0, done.stderr
    pulled = {r["name"]: r for r in map(json.loads, done.stdout.splitlines())}
    assert {n: r["status"] for n, r in pulled.items()} == {NAME: "pulled", "lpips-squeeze": "cached"}
    verified = served.run("zoo", "verify", NAME, "lpips-squeeze")
    assert verified.returncode == 0 and verified.stdout.count("\tok\t") == 2
    cells = [line.split("\t") for line in served.run("zoo", "list", "--task", "features").stdout.splitlines()]
    assert cells[0] == [NAME, "features", "224", "-", "BSD-3-Clause", "5.0 MB", "cached", "-"]
    assert cells[1] == ["lpips-squeeze", "features", "-", "-", "BSD-2-Clause", "9.6 kB", "built-in", "-"]

    recorded = arrays(golden("lpips.safetensors"))[0]
    lpips, digest = open_lpips("squeeze", device=CPU)
    a, b = (torch.from_numpy(recorded[f"in.image{k}"]).float() / 127.5 - 1 for k in (0, 1))
    np.testing.assert_allclose(lpips.distance(a, b), recorded["out.squeeze.distance"], rtol=1e-4, atol=1e-6)
    assert not lpips.training and not any(p.requires_grad for p in lpips.parameters())
    # By the command, offline: two folders of the same pictures as files.
    for side, k in (("truth", 0), ("made", 1)):
        pictures(served.folder / side, recorded[f"in.image{k}"].transpose(0, 2, 3, 1))
    sides = [served.folder / side for side in ("truth", "made")]
    scored = served.run("fid", *map(str, sides), "--pairs", "--metrics", "lpips-squeeze", "--json", "--offline")
    assert scored.returncode == 0, scored.stderr
    stamp = json.loads(scored.stdout)
    assert stamp["lpips-squeeze"] == pytest.approx(recorded["out.squeeze.distance"].mean(), rel=1e-4)
    heads = lpips_weights.heads_state(golden("lpips.safetensors"), "squeeze")
    assert digest == tensors_sha256({**lpips_weights.backbone_state("squeeze"), **heads})


def test_a_feature_network_is_no_model(served: World) -> None:
    """It is refused before it is fetched."""
    for name in (NAME, "lpips-squeeze"):
        with pytest.raises(UsageError, match=f"cannot use '{name}' as a model") as refused:
            load(name, device="cpu")
        assert "it is a feature network" in refused.value.why
    assert served.hub.requests == []


def test_weights_of_another_network_are_named(served: World) -> None:
    """A zoo of one's own may point anywhere; what is there must be the network all the same."""
    file = io.BytesIO()
    torch.save({"features.0.weight": torch.ones(64, 3, 5, 5)}, file)
    served.hub.files["other.pth"] = file.getvalue()
    text = entry("vgg16-imagenet").replace("https://download.pytorch.org/models/vgg16-397923af.pth", "{url}")
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    text = text.replace("397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", digest)
    text = text.replace("bytes: 553433881", f"bytes: {len(file.getvalue())}")
    served.zoo(text.replace("{url}", f"{served.hub.url}/upstream/other.pth") + entry("lpips-vgg"))
    with pytest.raises(WeightsError) as missing:
        open_vgg16(device=CPU)
    assert "ganctl zoo pull vgg16-imagenet" in missing.value.hint
    assert served.pull("vgg16-imagenet").returncode == 0
    for opened in (lambda: open_vgg16(device=CPU), lambda: open_lpips("vgg", device=CPU)):
        with pytest.raises(WeightsError, match="cannot use weights of vgg16-imagenet") as wrong:
            opened()
        assert "'features.0.weight' has shape (64, 3, 5, 5), the network needs (64, 3, 3, 3)" in wrong.value.why


def test_adain_is_its_decoder_with_the_encoder_of_another_entry(world: World) -> None:
    """One pull brings both files; each is held to its hash."""
    G = family("adain").build(family("adain").Config(width=8)).G
    text = entry("adain") + entry("adain-vgg-normalised")
    for name, part, published in (
        ("decoder.pth", G.decoder, "379ca41d59f3a37eed3599bbbc2560c19da5c458870a5ffd3a9dd41aa88f9472"),
        ("vgg_normalised.pth", G.encoder, "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a"),
    ):
        file = io.BytesIO()
        torch.save(dict(part.state_dict()), file)
        world.hub.files[name] = file.getvalue()
        text = text.replace(published, hashlib.sha256(file.getvalue()).hexdigest())
    text = text.replace(
        "https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0", f"{world.hub.url}/upstream"
    )
    world.zoo(text)
    done = world.run("zoo", "pull", "adain", "--json")
    assert done.returncode == 0, done.stderr
    state = read_bundle(Path(json.loads(done.stdout)["path"])).state("G")
    assert all(torch.equal(state[k], v) for k, v in G.state_dict().items()) and len(state) == len(G.state_dict())
    cached = world.run("zoo", "list", "--cached", "--json").stdout.splitlines()
    assert {json.loads(line)["name"] for line in cached} == {"adain", "adain-vgg-normalised"}
    assert world.run("zoo", "verify", "adain").returncode == 0
