"""The shape of the house: one direction, one door for each kind of file, no code from data, tools that stay green."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "ganctl"
FILES = {p.relative_to(PACKAGE).as_posix(): p for p in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(p.read_text(encoding="utf-8")) for name, p in FILES.items()}
TOOLS = Path(sys.executable).parent

EXECUTING = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "code")
"""Modules whose readers run what a file says."""
DOORS = {
    "PIL.Image.open": {"io/images.py"},
    "zipfile.ZipFile": {"io/archives.py"},
    "tarfile.open": {"io/archives.py"},
    "safetensors.safe_open": {"io/tensors.py"},
    "safetensors.deserialize": set(),
    "safetensors.torch.load": set(),
    "safetensors.torch.load_file": set(),
    "safetensors.torch.load_model": set(),
    "safetensors.numpy.load_file": set(),
    "numpy.load": {"io/arrays.py"},
    "numpy.loadtxt": set(),
    "numpy.genfromtxt": set(),
    "numpy.fromfile": set(),
    "numpy.memmap": set(),
    "mmap.mmap": {"io/decoded.py"},
    "torch.load": set(),
    "torch.save": set(),
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "torch.hub.load_state_dict_from_url": set(),
    "torch.package.PackageImporter": set(),
    "torch.from_file": set(),
    "os.system": set(),
    "os.popen": set(),
}
"""Where each way into a file may be named; an empty set is nowhere."""
MODULES = {"zipfile": {"io/archives.py", "io/arrays.py"}, "tarfile": {"io/archives.py"}, "yaml": {"config.py"}}
"""Modules that only their door may import (an .npz is a zip, and has a door of its own)."""


def names(tree: ast.AST) -> Iterator[str]:
    """Every dotted name a file uses, import aliases resolved: np.load → numpy.load."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                aliases[a.asname or a.name.partition(".")[0]] = a.name if a.asname else a.name.partition(".")[0]
                yield a.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for a in node.names:
                aliases[a.asname or a.name] = f"{node.module}.{a.name}"
                yield f"{node.module}.{a.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield aliases.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            parts = [node.attr]
            value = node.value
            while isinstance(value, ast.Attribute):
                parts.append(value.attr)
                value = value.value
            if isinstance(value, ast.Name):
                yield ".".join([aliases.get(value.id, value.id), *reversed(parts)])


USED = {name: set(names(tree)) for name, tree in TREES.items()}


def test_the_walk_sees_what_it_must() -> None:
    """The check itself: every way of naming a door is found."""
    source = """
import numpy as np, torch, PIL.Image
from PIL import Image as I
from safetensors import safe_open as so
from torch import load
np.load; torch.jit.load; I.open; so; load; PIL.Image.open; eval
"""
    found = set(names(ast.parse(source)))
    assert {"numpy.load", "torch.jit.load", "PIL.Image.open", "safetensors.safe_open", "torch.load", "eval"} <= found


@pytest.mark.parametrize("door", DOORS)
def test_each_kind_of_file_has_one_door(door: str) -> None:
    through = {name for name, used in USED.items() if door in used}
    assert through <= DOORS[door]
    assert through == DOORS[door], f"{door}: the list names a file that no longer uses it"


@pytest.mark.parametrize("module", MODULES)
def test_modules_of_the_doors(module: str) -> None:
    assert {name for name, used in USED.items() if module in used} <= MODULES[module]


def test_nothing_that_executes_files_is_imported() -> None:
    for name, used in USED.items():
        roots = {u.partition(".")[0] for u in used if u in EXECUTING or u.partition(".")[0] in EXECUTING}
        imported = {r for r in roots if any(u == r or u.startswith(f"{r}.") for u in imports(TREES[name]))}
        assert not imported, f"{name} imports {imported}"


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object], int]]:
    """(name, keyword arguments where they are constants, line) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            keywords = {k.arg: getattr(k.value, "value", "computed") for k in node.keywords if k.arg}
            yield name if isinstance(node.func, ast.Attribute) else f"{name}()", keywords, node.lineno


def test_no_code_is_made_from_text_and_no_protection_is_turned_off() -> None:
    for file, tree in TREES.items():
        for name, keywords, line in calls(tree):
            where = f"{file}:{line}"
            assert name not in ("eval()", "exec()", "compile()", "__import__()"), where
            assert keywords.get("allow_pickle", False) is False, where
            assert keywords.get("weights_only", True) is True, where
            assert keywords.get("trust_remote_code", False) is False, where
            assert keywords.get("shell", False) is False, where
            assert not (name == "load_state_dict" and keywords.get("strict", True) is not True), where


HEAVY = ("torch", "numpy", "pydantic", "huggingface_hub", "PIL", "rich", "safetensors", "scipy", "yaml", "av")
EXEMPT = ("train/", "inversion/", "metrics/", "models/", "nn/", "losses/", "data/", "protocols.py", "phase.py")
EXEMPT += ("published/", "workflows/fid_pictures.py", "workflows/fid_page.py")
"""Where pyproject.toml lets modules import torch at their top, and the one that loads such a module."""


def test_importing_the_light_half_loads_nothing_heavy() -> None:
    """cli, workflows, io and the small roots: all of them imported in one process."""
    light = [n for n in FILES if not n.startswith(EXEMPT) and n != "__main__.py"]
    modules = [f"ganctl.{n.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__") for n in light]
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr
    assert len(modules) > 50


def tool(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    return subprocess.run(
        [str(TOOLS / name), *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.parametrize(
    "command",
    [("lint-imports",), ("ruff", "check", "."), ("ruff", "format", "--check", "."), ("pyright",)],
    ids=lambda c: " ".join(c),
)
def test_tools_are_green(command: tuple[str, ...]) -> None:
    done = tool(*command)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_the_contracts_would_notice(tmp_path: Path) -> None:
    """import-linter reads our contracts, and a model that imports another's file without being written down fails."""
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "ganctl", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "ganctl" / "models" / "vae.py"
    file.write_text(
        file.read_text().replace("\n\nTRAIN", "\n\nimport ganctl.models.gan\nimport ganctl.workflows.zoo\n\nTRAIN", 1)
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [str(TOOLS / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "One direction BROKEN" in done.stdout and "family tree BROKEN" in done.stdout


def test_files_and_functions_stay_short() -> None:
    """At most 500 lines a file and 60 a function; a command's function is its list of options."""
    for name, path in FILES.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, name
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.FunctionDef) and not name.startswith("cli/"):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{name}: {node.name}"


def test_every_module_says_what_it_is_for() -> None:
    for name, tree in TREES.items():
        assert ast.get_docstring(tree) or not tree.body, name
