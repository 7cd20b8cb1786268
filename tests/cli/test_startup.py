"""What answers at once: help, completion, mistakes. None of them waits for a heavy library, and each has its time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Shell

HEAVY = {"torch", "numpy", "pydantic", "huggingface_hub", "PIL", "safetensors", "scipy", "rich"}
TRIES = 15
YARDSTICK = "import asyncio, email.message, http.client, logging.config, tarfile, unittest.mock, xml.dom.minidom"
YARD = 80
"""Milliseconds that a Python takes for it where the times below were set; a slower machine has as much longer."""

# Prints the modules that are loaded when the command has ended, however it ended.
SPY = """
import atexit, sys
atexit.register(lambda: print("MODULES", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
from ganctl.__main__ import main
main()
"""

QUICK = {
    # command: (exit code, milliseconds, may load)
    ("--help",): (0, 250, {"rich"}),
    ("sample", "--help"): (0, 300, {"rich"}),
    ("--version",): (0, 250, set()),
    ("zoo",): (2, 300, set()),
    ("smaple",): (2, 300, set()),
    ("sample", "--nmu", "3"): (2, 300, set()),
    ("sample", "--num", "x"): (2, 300, set()),
    ("sample", "--format", "jgp"): (2, 300, set()),
    ("sample", "dcgan-mnits"): (2, 300, set()),
    ("interpolate", "dcgan-mnits"): (2, 300, set()),
    ("invert", "dcgan-mnits", "x.png"): (2, 300, set()),
    ("translate", "pix2pix-emjoi", "x.png"): (2, 300, set()),
    ("dataset", "gone", "-o", "x.zip"): (2, 300, set()),
    ("zoo", "pull", "inception"): (2, 300, set()),
    ("zoo", "info", "inception"): (2, 300, set()),
    ("completion", "bash"): (0, 250, set()),
}
COMPLETIONS = [("sam",), ("sample", "dcgan"), ("sample", "--n"), ("zoo", "pull", "")]


@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_loads_nothing_heavy(ganctl: Shell, command: tuple[str, ...]) -> None:
    code, _, allowed = QUICK[command]
    assert loaded(ganctl, command, code) <= allowed


@pytest.mark.parametrize("words", COMPLETIONS, ids=" ".join)
def test_completion_loads_nothing_heavy(ganctl: Shell, words: tuple[str, ...]) -> None:
    assert loaded(ganctl, words, 0, _GANCTL_COMPLETE="bash") == set()


def loaded(ganctl: Shell, command: tuple[str, ...], code: int, **env: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SPY, *command],
        env={**ganctl.env, **env},
        cwd=ganctl.folder,
        text=True,
        capture_output=True,
    )
    assert done.returncode == code, done.stderr
    modules = done.stderr.rpartition("MODULES ")[2].split()
    assert "typer" in modules
    return HEAVY & set(modules)


@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_answers_in_time(ganctl: Shell, command: tuple[str, ...]) -> None:
    within(QUICK[command][1], ganctl, command)


@pytest.mark.parametrize("words", COMPLETIONS, ids=" ".join)
def test_completion_answers_in_time(ganctl: Shell, words: tuple[str, ...]) -> None:
    within(150, ganctl, words, _GANCTL_COMPLETE="bash")


def within(milliseconds: int, ganctl: Shell, command: tuple[str, ...], **env: str) -> None:
    """Some try is quick enough. Counted is the processor's time, which is the clock's on a machine that is not busy."""
    taken = []
    for number in range(TRIES):
        # The other core's work slows this one down, and ends some time.
        time.sleep(0.5 * (number >= 3))
        used = cpu_milliseconds([sys.executable, "-m", "ganctl", *command], {**ganctl.env, **env}, ganctl.folder)
        pace = cpu_milliseconds([sys.executable, "-c", YARDSTICK], ganctl.env, ganctl.folder) / YARD
        taken.append(used / max(pace, 1))
        if taken[-1] <= milliseconds:
            return
    raise AssertionError(f"{' '.join(command)}: {min(taken):.0f} ms at best, {milliseconds} ms allowed")


def cpu_milliseconds(command: list[str], env: dict[str, str], folder: Path) -> float:
    process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return 1000 * (usage.ru_utime + usage.ru_stime)
