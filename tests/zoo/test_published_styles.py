"""Published ProGANs and StyleGANs by name: pulled from the address of their file, hashed by its beginning, converted once."""  # noqa: E501

import hashlib
import json
from pathlib import Path

import pytest
import torch

from ganctl.io.bundle import read_bundle
from ganctl.load import load
from tests.cli.test_convert_styles import gan_zoo, louder
from tests.conftest import golden
from tests.golden.test_networks import close, read
from tests.zoo.conftest import World


def published(path: Path, kind: str) -> bytes:
    """A recorded network beside another, in the container of its code base."""
    weights = read(golden(f"{kind}-g-r16.safetensors"))[0]
    if "zoo" in kind:
        return gan_zoo(path, netG=louder(weights), netD={}, avgG=weights).read_bytes()
    both = {f"generator.{k}": v for k, v in louder(weights).items()}
    torch.save({"meta": {}, "state_dict": both | {f"generator_ema.{k}": v for k, v in weights.items()}}, path)
    return path.read_bytes()


ROADS = {
    "progan-openmmlab": ("progan", "state_dict.generator_ema"),
    "stylegan1-openmmlab": ("stylegan", "state_dict.generator_ema"),
    "stylegan1-zoo": ("stylegan", "avgG"),
}


@pytest.mark.parametrize("kind", ROADS)
@torch.no_grad()
def test_pull_and_convert_once(world: World, kind: str) -> None:
    model, net = ROADS[kind]
    data = published(world.folder / "theirs.pth", kind)
    digest = hashlib.sha256(data).hexdigest()[:8]
    world.hub.files["theirs.pth"] = data
    world.zoo(
        f"theirs:\n  model: {model}\n  config: {{resolution: 16}}\n  weights:\n    upstream:\n"
        f"      url: {world.hub.url}/upstream/theirs.pth\n      sha256: '{digest}'\n      format: torch-checkpoint\n"
        f"      net: {net}\n  card: {{task: sample, license: Apache-2.0, noncommercial: false, trained_on: noise}}\n"
    )
    done = world.run("zoo", "pull", "theirs", "--json")
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["path"])
    bundle = read_bundle(path)
    assert list(bundle.nets) == ["G_ema"] and bundle.config["resolution"] == 16
    _, inputs, outputs, _ = read(golden(f"{kind}-g-r16.safetensors"))
    G = load(str(path), device="cpu").net
    if kind == "stylegan1-zoo":
        noise = iter([inputs[f"noise{i}"] for i in range(6)])
        close(G.synthesis(G.map(inputs["z"], psi=0.7), noise=lambda *shape: next(noise)), outputs["psi07.img"])
    else:
        close(G.sample(inputs["z"]), outputs["full.img"].flip(1).clamp(-1, 1))
    assert world.hub.requests == [("GET", "/upstream/theirs.pth")]
