"""`ganctl completion`: the scripts in a real shell, and what they are answered."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Shell

SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]
MODELS = ["dcgan-fashion-mnist", "dcgan-fashiongen-ganzoo"]

# Calls the completion function as readline does, for each line of words given.
DRIVER = """
eval "$(ganctl completion bash)"
while IFS= read -r line; do
    eval "COMP_WORDS=($line)"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _ganctl_complete
    echo "${COMPREPLY[*]}"
done
"""


def installed(ganctl: Shell) -> dict[str, str]:
    """The shell's environment, with a `ganctl` on its PATH."""
    command = ganctl.folder.parent / "bin" / "ganctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ganctl "$@"\n')
    command.chmod(0o755)
    return {**ganctl.env, "PATH": f"{command.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_good_syntax(ganctl: Shell, shell: str) -> None:
    script = ganctl.ok("completion", shell).out
    done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_bash_completes_commands_options_names_and_recipes(ganctl: Shell) -> None:
    cases = {
        "ganctl sam": ["sample"],
        "ganctl zoo p": ["pull", "path", "push"],
        "ganctl --device cpu zoo ver": ["verify"],
        "ganctl sample --lat": ["--latents"],
        "ganctl sample --off": ["--offline"],
        "ganctl sample --no-p": ["--no-progress"],
        "ganctl sample dcgan-f": MODELS,
        "ganctl sample -n 3 dcgan-fashion-": ["dcgan-fashion-mnist"],
        "ganctl sample dcgan-mnist ''": [],
        "ganctl translate pix2pix-em": ["pix2pix-emoji"],
        "ganctl zoo pull inc": ["inception-2015-12-05"],
        "ganctl zoo pull dcgan-mnist inc": ["inception-2015-12-05"],
        "ganctl fid real/ dcgan-f": MODELS,
        "ganctl train dcgan-m": ["dcgan-mnist"],
        "ganctl train wgan_": [],
        "ganctl train wgan": ["wgan", "wgan-gp", "wgan-mnist"],
        "ganctl dataset ch": ["check"],
        "ganctl dataset photos --res": ["--resolution"],
        "ganctl sample --format ''": ["png", "jpg", "webp", "npy"],
        # bash splits words at =.
        "ganctl sample --format = w": ["webp"],
        "ganctl sample --format =": ["png", "jpg", "webp", "npy"],
        "ganctl sample --device c": ["cpu", "cuda"],
        "ganctl sample -- --off": [],
        "ganctl completion z": ["zsh"],
        "ganctl nothing ''": [],
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", DRIVER],
        input="\n".join(cases) + "\n",
        text=True,
        capture_output=True,
        env=installed(ganctl),
        cwd=ganctl.folder,
        timeout=120,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert dict(zip(cases, map(str.split, done.stdout.splitlines()), strict=True)) == cases


def test_the_tab_key_in_an_interactive_bash(ganctl: Shell) -> None:
    script = ganctl.folder / "completion.bash"
    script.write_text(ganctl.ok("completion", "bash").out)
    env = {**installed(ganctl), "PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ganctl.folder)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
    try:
        os.write(terminal, b"source completion.bash\n")
        os.write(terminal, b"ganctl zoo pull inc\t")
        assert "ganctl zoo pull inception-2015-12-05 " in seen(terminal, "inception-2015-12-05 ")
        # Where no name fits, files do.
        os.write(terminal, b"\x15ganctl sample comp\t")
        assert "ganctl sample completion.bash" in seen(terminal, "completion.bash")
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


def seen(terminal: int, text: str) -> str:
    """What the terminal shows until `text` is there, for at most 30 s."""
    shown, end = "", time.monotonic() + 30
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_answers_carry_help_and_a_broken_zoo_is_no_obstacle(ganctl: Shell, tmp_path: Path) -> None:
    done = ganctl.ok("zoo", "", _GANCTL_COMPLETE="zsh")
    assert (
        "verify\tCheck sha256 and a fixed-seed picture; without names, everything that is on this machine."
        in done.lines
    )
    assert all("\t" in line for line in done.lines)
    pull = [line for line in done.lines if line.startswith("pull")]
    assert "org/repo[@revision]" in pull[0]
    bad = tmp_path / "zoo.yaml"
    bad.write_text("a: [")
    done = ganctl.ok("sample", "", _GANCTL_COMPLETE="fish", GANCTL_ZOO=str(bad))
    assert done.lines == ["<files>"] and not done.err


def test_an_unknown_shell(ganctl: Shell) -> None:
    done = ganctl("completion", "zhs")
    assert done.code == 2
    assert "it is none of bash, zsh, fish" in done.err and "did you mean zsh?" in done.err
