"""What docs/scaling.md tells of communication is what a step really exchanges, and is there for every family."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch.distributed as dist

from ganctl.load import model_names
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def communication() -> ModuleType:
    spec = importlib.util.spec_from_file_location("communication", ROOT / "scripts" / "communication.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_every_family_and_its_rows_are_current(communication: ModuleType) -> None:
    lines = communication.TABLE.search(communication.PAGE.read_text(encoding="utf-8"))[0].splitlines(keepends=True)
    rows = {line.split("`")[1]: line for line in lines if "`" in line}
    assert list(rows) == model_names(), "run: python scripts/communication.py"
    for name in ("gan", "dcgan"):
        assert communication.row(name) == rows[name], "run: python scripts/communication.py"


def test_the_count_without_values_is_that_of_two_processes_over_gloo(communication: ModuleType, tmp_path: Path) -> None:
    small = {"ranks": 2, "n": 2, "resolution": 16, "ngf": 4, "ndf": 4, "channels": 1}
    want = communication.of_step("dcgan", **small)
    assert want.calls > 10 and want.gathered > 0 and 0 < want.gradients < want.reduced
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                store = f"file://{tmp_path}/store"
                dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
                found = communication.of_step("dcgan", **small, carried_out=True)
            except BaseException:
                os._exit(2)
            os._exit(int(found != want))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]


def test_the_model_of_time(communication: ModuleType) -> None:
    """Four ranks at 1 kB/s: 3/4 of 2 · 800 + 400 bytes, and half a second for each of three collectives."""
    traffic = communication.Traffic(calls=3, reduced=800, gathered=400)
    assert communication.seconds(traffic, 4, 1000, 0.5) == pytest.approx(1.5 + 1.5)
