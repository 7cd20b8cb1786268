"""The pages: each command has its own, with the help it really prints."""

import subprocess
import sys

from tests.conftest import ROOT


def test_every_command_has_a_page_with_its_real_help() -> None:
    command = [sys.executable, "scripts/update_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
