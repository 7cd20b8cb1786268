"""What every test shares: the command line in a process of its own, tiny real networks, and where golden files lie."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forkserver import Forkserver

# Tests run in parallel processes: one thread each is fastest, and the same numbers everywhere. Before torch is loaded.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell's background job ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GANCTL_SHARED", ROOT.parent / "shared"))
"""Reference data beside the checkout; tests that need it are skipped where it is not."""
COPIES = Path(__file__).parent / "golden" / "data"
"""Small golden files that travel with the tests."""


def golden(name: str) -> Path:
    """A file recorded from a reference program: the committed copy, else SHARED's; skips the test without either."""
    copy = COPIES / name
    return copy if copy.exists() else shared(f"golden/{name}")


def shared(name: str) -> Path:
    """A file beside the checkout; skips the test without it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name}")
    return path


def shared_data(name: str) -> Path:
    """Real data, such as `mnist/train-images-idx3-ubyte.gz`."""
    return shared(f"data/{name}")


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Shell:
    """`ganctl` as a user has it, in a folder and home of its own, with no network and no settings of this machine."""

    folder: Path
    env: dict[str, str]
    forks: Forkserver

    def start(self, *args: object, **options: object) -> "subprocess.Popen[bytes]":
        env = {**self.env, **options.pop("env", {})}  # type: ignore[dict-item]
        command = [sys.executable, "-m", "ganctl", *map(str, args)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=env, stdin=pipe, stdout=pipe, stderr=pipe, **options)  # type: ignore[call-overload]

    def bytes(self, *args: object, stdin: bytes = b"", timeout: float = 240, **env: str) -> tuple[int, bytes, str]:
        """Exit code, stdout as bytes, stderr. No failure may show a traceback or advise to weaken a protection."""
        # What a starting interpreter reads takes a start.
        if any(name.startswith("PYTHON") for name in env):
            process = self.start(*args, env=env)
            out, err = process.communicate(stdin, timeout=timeout)
            code = process.returncode
        else:
            env = {**self.env, **env}
            code, out, err = self.forks.run([*map(str, args)], stdin, cwd=self.folder, env=env, timeout=timeout)
        text = err.decode(errors="replace")
        for forbidden in ("Traceback", "weights_only", "allow_pickle", "add_safe_globals"):
            assert forbidden not in text, text
        return code, out, text

    def __call__(self, *args: object, stdin: bytes = b"", timeout: float = 240, **env: str) -> Done:
        code, out, err = self.bytes(*args, stdin=stdin, timeout=timeout, **env)
        return Done(code, out.decode(errors="surrogateescape"), err)

    def ok(self, *args: object, **options: object) -> Done:
        """The same, which must succeed."""
        done = self(*args, **options)  # type: ignore[arg-type]
        assert done.code == 0, done.err
        return done


def bare_env() -> dict[str, str]:
    """This process' environment without any setting that ganctl or the Hub's client heeds.

    And without the one that would have each of a thousand commands compile the same files.
    """
    dropped = ("HF_", "HUGGING", "GANCTL_", "XDG_", "TRANSFORMERS_", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped) and "proxy" not in k.lower()}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def clean_env(home: Path) -> dict[str, str]:
    """The environment of a command on a machine of its own."""
    return bare_env() | {
        "HOME": str(home),
        "GANCTL_CACHE": str(home / "cache"),
        # A port where nobody listens: a request that should not be made fails at once.
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PYTHONWARNINGS": "ignore",
        "GANCTL_DEVICE": "cpu",
        "COLUMNS": "100",
    }


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    server = Forkserver(clean_env(tmp_path_factory.getbasetemp()))
    yield server
    server.close()


@pytest.fixture
def ganctl(tmp_path: Path, forks: Forkserver) -> Shell:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    return Shell(work, clean_env(home), forks)


Tiny = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """`tiny("dcgan", resolution=16, …)` → a bundle of that family's real, untrained networks, made once per config."""
    from dataclasses import fields

    import torch

    from ganctl.config import parse, to_plain
    from ganctl.io.bundle import write_bundle
    from ganctl.load import family
    from ganctl.train.loop import networks

    made: dict[tuple, Path] = {}

    def make(model: str, **config: object) -> Path:
        key = (model, repr(sorted(config.items())))
        if key not in made:
            module = family(model)
            cfg = parse(module.Config, config, where=f"tiny {model}")
            torch.manual_seed(0)
            nets = module.build(cfg)
            public = fields(module.Nets)[0].name
            path = tmp_path_factory.mktemp("bundles") / f"tiny-{model}"
            states = {name: net.state_dict() for name, net in networks(nets).items()}
            states = {f"{public}_ema": states[public], **states}
            card = {"license": "Apache-2.0", "trained_on": "nothing"}
            write_bundle(path, model=model, config=to_plain(cfg), states=states, card=card)
            made[key] = path
        return made[key]

    return make
