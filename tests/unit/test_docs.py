"""The pages: each command has its own, with the help it really prints."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_every_command_has_a_page_with_its_real_help() -> None:
    command = [sys.executable, "scripts/update_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_bundle_is_read_without_ganctl(tmp_path: Path) -> None:
    """The program of docs/zoo.md, in an interpreter that cannot import ganctl."""
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- without ganctl -->\n\n```python\n(.*?)```", page, re.DOTALL)
    assert found and '"BUNDLE"' in found[1]
    program = found[1].replace('"BUNDLE"', repr(str(ROOT / "ganctl" / "weights" / "dcgan-mnist")))
    command = [sys.executable, "-c", f"import sys\nsys.modules['ganctl'] = None\n{program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    first, *nets = done.stdout.splitlines()
    assert first.startswith("dcgan {") and first.endswith(" Apache-2.0")
    assert [re.fullmatch(r"(\w+) \d+ numbers in \d+ tensors", line)[1] for line in nets] == ["G_ema"]  # type: ignore[index]
