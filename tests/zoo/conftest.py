"""A real small bundle, a small Hub that serves it, and the command line in a process of its own."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ganctl.io.bundle import write_bundle
from ganctl.models import dcgan
from tests.conftest import bare_env
from tests.forkserver import Forkserver
from tests.zoo.hubserver import SIGNATURE, Hub, serve

CONFIG = {"resolution": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}
STRICT = ("-W", "error::ResourceWarning")
TOKEN = "hf_" + "abcdefghijklmnop"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DCGAN of 16 x 16 px, with a card."""
    import torch

    torch.manual_seed(0)
    nets = dcgan.build(dcgan.Config(**CONFIG))
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    card = {"task": "sample", "license": "apache-2.0", "trained_on": "nothing"}
    write_bundle(folder, model="dcgan", config=CONFIG, states={"G": nets.G.state_dict()}, card=card)
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@dataclass
class World:
    """One machine: its caches, its zoo, its Hub."""

    hub: Hub
    folder: Path
    bundle: Path
    env: dict[str, str]
    forks: Forkserver

    def weights(self) -> bytes:
        return (self.bundle / "G.safetensors").read_bytes()

    def publish(self, repo: str = "org/tiny", **options: Any) -> str:
        return self.hub.add(repo, {f.name: f.read_bytes() for f in self.bundle.iterdir()}, **options)

    def zoo(self, text: str) -> Path:
        path = self.folder / "zoo.yaml"
        path.write_text(text)
        return path

    def zoo_of(
        self, commit: str, *, repo: str = "org/tiny", sha256: str = "", card: str = "", data: bytes = b""
    ) -> Path:
        data = data or self.weights()
        return self.zoo(
            f"tiny-gan:\n  model: dcgan\n  config: {json.dumps(CONFIG)}\n  weights:\n    hub:\n      repo: {repo}\n"
            f"      revision: '{commit}'\n      file: G.safetensors\n      bytes: {len(data)}\n"
            f"      sha256: '{sha256 or hashlib.sha256(data).hexdigest()}'\n"
            f"  card: {{task: sample, license: Apache-2.0{card}}}\n"
        )

    def zoo_upstream(
        self, name: str, data: bytes, *, sha256: str = "", size: int = 0, form: str = "", unpinned: bool = False
    ) -> Path:
        """A zoo of one entry whose weights are the authors' file /upstream/<name>; `unpinned`: no hash, no size."""
        self.hub.files[name] = data
        pin = f"      sha256: '{sha256 or hashlib.sha256(data).hexdigest()}'\n      bytes: {size or len(data)}\n"
        return self.zoo(
            f"theirs:\n  model: inception\n  weights:\n    upstream:\n      url: {self.hub.url}/upstream/{name}\n"
            f"{'' if unpinned else pin}"
            f"      format: {form or 'torch-state-dict'}\n  card: {{task: features, license: Apache-2.0}}\n"
        )

    def on_small_disk(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """The command with both caches on a disk of 1 MiB; where none can be mounted, with files limited to that."""
        disk = self.folder / "disk"
        disk.mkdir()
        small = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
        wrap = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", small, str(disk)]
        if not shutil.which("unshare") or subprocess.run([*wrap, "true"], capture_output=True).returncode:
            wrap = ["sh", "-c", 'ulimit -f 1024 && exec "$@"', "sh"]
        env = {**self.env, "HF_HOME": str(disk / "hf"), "GANCTL_CACHE": str(disk / "cache")}
        command = [*wrap, sys.executable, "-m", "ganctl", *args]
        return subprocess.run(command, env=env, cwd=self.folder, text=True, capture_output=True, timeout=120)

    def start(self, *args: str, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *STRICT, "-m", "ganctl", *args],
            env={**self.env, **env},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
        # What a starting interpreter reads takes a start.
        if any(name.startswith("PYTHON") for name in env):
            process = self.start(*args, **env)
            out, err = process.communicate(timeout=120)
            code = process.returncode
        else:
            code, *streams = self.forks.run(args, b"", cwd=self.folder, env={**self.env, **env}, timeout=120)
            out, err = (stream.decode() for stream in streams)
        assert "Traceback" not in err, err
        for forbidden in (TOKEN, SIGNATURE, "weights_only", "huggingface_hub.errors", "force_download"):
            assert forbidden not in out + err
        return subprocess.CompletedProcess(args, code, out, err)

    def pull(self, name: str = "tiny-gan", **env: str) -> "subprocess.CompletedProcess[str]":
        return self.run("zoo", "pull", name, **env)


@pytest.fixture(scope="session")
def strict() -> Iterator[Forkserver]:
    server = Forkserver(bare_env(), *STRICT)
    yield server
    server.close()


@pytest.fixture
def world(hub: Hub, bundle: Path, tmp_path: Path, strict: Forkserver) -> World:
    env = bare_env() | {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "GANCTL_CACHE": str(tmp_path / "cache"),
        "GANCTL_ZOO": str(tmp_path / "zoo.yaml"),
    }
    return World(hub, tmp_path, bundle, env, strict)
