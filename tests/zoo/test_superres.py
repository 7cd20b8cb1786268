"""Entries of super-resolution: right facts, and every container in which their authors keep such networks."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganctl import catalog, load
from ganctl.io import hub
from tests.conftest import golden, shared
from tests.golden.test_networks import close, read

LICENCES = {
    "mit-leftthomas": "MIT",
    "apache-2.0-esrgan": "Apache-2.0",
    "bsd-3-realesrgan": "BSD-3-Clause",
    "bsd-3-ai-forever": "BSD-3-Clause",
    "apache-2.0-openmmlab": "Apache-2.0",
}
RAW = r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)"
HUB = r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"


def test_entries_are_the_catalogues() -> None:
    """Address, hash, size, licence and scores; of one file two hashes are told, and none is pinned."""
    facts = shared("zoo-catalogue.yaml").read_text().split("\n- id: ")
    found = [e for e in catalog.entries().values() if e.model in ("srgan", "esrgan") and e.upstream]
    assert len(found) == 22
    for e in found:
        assert e.upstream is not None and e.task == "translate"
        url = e.upstream.url
        if raw := re.fullmatch(RAW, url):
            parts = [f"upstream: git:{raw[1]}@{raw[2]}:{raw[3]}\n"]
        elif at := re.fullmatch(HUB, url):
            parts = [f"repo: {at[1]}\n", f"file: {at[3]}\n"] + [f"revision: {at[2]}\n"] * (at[2] != "main")
        else:
            parts = [f"{url}\n"]
        (about,) = [f for f in facts if all(part in f for part in parts)]
        if e.name == "realesrnet-x4plus":
            assert e.upstream.sha256 == "" and "so re-check" in about
        else:
            assert re.search(rf"(value|prefix): '?{e.upstream.sha256}\b", about), e.name
        assert not e.upstream.bytes or f"size_bytes: {e.upstream.bytes}\n" in about, e.name
        licence = re.search(r"licence: (\S+)", about)
        assert licence and e.card["license"] == LICENCES[licence[1]] and "non_commercial: false" in about
        for key, number in e.card.get("metrics", {}).items():
            data, _, metric = key.rpartition("_")
            told = rf"{data}:\s+(psnr: [\d.]+\s+)?{metric}: {number}\n"
            assert re.search(told, about, re.IGNORECASE), (e.name, key)


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t + 1 for k, t in state.items()}


CONTAINERS = {
    "params_ema": lambda s: {"params": other(s), "params_ema": s},
    "params": lambda s: {"params": s},
    "bare": lambda s: s,
    "openmmlab": lambda s: {
        "meta": {"epoch": 1},
        "state_dict": {
            **{f"generator.{k}": t for k, t in s.items()},
            **{f"discriminator.{k}": torch.zeros(3) for k in ("conv.weight", "linear1.weight")},
            "perceptual_loss.vgg.mean": torch.zeros(1, 3, 1, 1),
        },
    },
    "openmmlab-ema": lambda s: {
        "state_dict": {f"{g}.{k}": t for g, d in (("generator", other(s)), ("generator_ema", s)) for k, t in d.items()}
    },
}
FILES = [
    ("realesrgan-x4plus", "realesrgan_rrdbnet_x4", "params_ema"),
    ("realesrgan-x2plus", "realesrgan_rrdbnet_x2", "params_ema"),
    ("realesr-general-x4v3", "realesrgan_srvggnet_compact_prelu", "params"),
    ("esrgan-x4", "esrgan_rrdbnet_old_layout", "bare"),
    ("realesrgan-x4-ai-forever", "realesrgan_rrdbnet_x4", "bare"),
    ("srgan-x4-leftthomas", "srgan_generator_x4_narrow", "bare"),
    ("esrgan-x4-div2k-openmmlab", "esrgan_rrdbnet_new_layout", "openmmlab"),
    ("realesrgan-x4-df2kost-openmmlab", "realesrgan_rrdbnet_x4", "openmmlab-ema"),
]


@pytest.mark.parametrize(("name", "recorded", "container"), FILES)
@torch.no_grad()
def test_an_entry_reads_its_container(
    name: str, recorded: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry as it ships, its file replaced by one of a small network whose numbers the reference gave."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    weights, inputs, outputs, _ = read(golden(f"{recorded}.safetensors"))
    file = tmp_path / "file.pth"
    torch.save(CONTAINERS[container](weights), file)
    monkeypatch.setattr(hub, "fetch_upstream", lambda *_, **__: file)
    bundle, _ = load.open_bundle(name)
    G = load.network(bundle, load.best_net(bundle))
    close((G.translate(2 * inputs["image"] - 1) + 1) / 2, outputs["image"])
