"""README is executed: its commands as they stand there, its table against the tree, its links against the files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.catalog import entries
from ganctl.config import read_yaml
from tests.conftest import ROOT, Shell

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL, TEST, TASKS = re.findall(r"```sh\n(.*?)```", README, re.S)


def shell(ganctl: Shell, script: str) -> "subprocess.CompletedProcess[str]":
    """Runs lines of bash in which `ganctl` is this checkout's."""
    bin = ganctl.folder / "bin"
    bin.mkdir()
    (bin / "ganctl").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ganctl "$@"\n')
    (bin / "ganctl").chmod(0o755)
    env = {**ganctl.env, "PATH": f"{bin}{os.pathsep}{ganctl.env['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=ganctl.folder, env=env, text=True, capture_output=True, timeout=280, check=False)


def test_the_first_command_makes_64_pictures_and_a_grid(ganctl: Shell) -> None:
    install, sample = INSTALL.strip().rsplit(" && ", 1)
    assert install == "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ."
    done = shell(ganctl, sample.replace(".venv/bin/ganctl", "ganctl"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 65
    folder = ganctl.folder / "out/dcgan-fashion-mnist/sample"
    assert sorted(p.name for p in folder.iterdir()) == ["grid.png", *[f"seed{i:04d}.png" for i in range(64)]]


def test_the_second_command_is_what_continuous_integration_runs() -> None:
    assert TEST.strip().endswith(".venv/bin/python -m pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script and "[1])" in script


@pytest.mark.timeout(300)
def test_one_line_per_task(ganctl: Shell) -> None:
    (ganctl.folder / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "data", ganctl.folder / "tests" / "data")
    done = shell(ganctl, TASKS)
    assert done.returncode == 0, done.stderr
    assert len(list((ganctl.folder / "digits").glob("seed*.png"))) == 16
    for made in ("walk.gif", "inverted/seed0003.npz", "inverted/seed0003-rec.png", "coloured.png"):
        assert (ganctl.folder / made).is_file()
    assert re.search(r"^fd-lenet\t\d+\.\d+$", done.stdout, re.M)
    assert (ganctl.folder / "runs/first/snapshots/000002/model.json").is_file()


def test_the_table_is_the_tree() -> None:
    rows = re.findall(r"^\|[^|]*\|[^|]*\| \[`(\w+)`\]\((.*?)\) \|(.*?)\|(.*?)\|$", README, re.M)
    models = sorted(p.stem for p in (ROOT / "ganctl/models").glob("[a-z]*.py"))
    assert sorted(name for name, *_ in rows) == models
    recipes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "ganctl/recipes").glob("*.yaml")):
        recipes.setdefault(read_yaml(path, where=path.name).value["model"], []).append(path.stem)
    zoo: dict[str, list[str]] = {}
    for entry in entries().values():
        zoo.setdefault(entry.model, []).append(entry.name)
    for name, path, listed_recipes, listed_zoo in rows:
        assert path == f"ganctl/models/{name}.py"
        assert sorted(re.findall(r"`(.*?)`", listed_recipes)) == sorted(recipes.get(name, []))
        # A family with many entries shows some, and how many more there are.
        listed, known = re.findall(r"`(.*?)`", listed_zoo), zoo.get(name, [])
        more = re.search(r"and (\d+) more", listed_zoo)
        assert sorted(set(listed) & set(known)) == sorted(listed) and len(listed) + int(more[1] if more else 0) == len(
            known
        )


def test_the_table_cites_the_papers_of_the_files() -> None:
    for path in (ROOT / "ganctl/models").glob("[a-z]*.py"):
        for number in re.findall(r"arXiv:(\d+\.\d+)", path.read_text(encoding="utf-8").splitlines()[0]):
            assert f"https://arxiv.org/abs/{number}" in README, path.name


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_link_leads_somewhere() -> None:
    dead = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="(.*?)"', text):
            if "://" not in target and not (page.parent / target).exists():
                dead.append(f"{page.name}: {target}")
    assert dead == []
