"""The fuzzer of `ganctl convert` makes the same inputs of the same seeds, and notices what it is there to notice."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ganctl.workflows import convert
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_reader", ROOT / "scripts/fuzz_reader.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whole_files_convert_and_damaged_ones_end_in_one_clear_error(fuzz: ModuleType, tmp_path: Path) -> None:
    files = fuzz.sources()
    for what, (suffix, data) in files.items():
        path = tmp_path / f"whole{suffix}"
        path.write_bytes(data)
        assert fuzz.answer(path) == "bundle", what
    ends = []
    for seed in range(16):
        what, suffix, data = fuzz.made(seed, files)
        assert (what, suffix, data) == fuzz.made(seed, files)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(data)
        ends.append(fuzz.answer(path))
    assert set(ends) <= {"bundle", "refused"} and "refused" in ends


def test_a_crash_and_a_death_are_finds(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(request: convert.ConvertRequest) -> None:
        raise KeyError("main.0.weight")

    files = {"text": (".pth", b"hello" * 100)}
    monkeypatch.setattr(convert, "run", crash)
    (found,) = fuzz.batch(range(3, 4), tmp_path, files)
    assert found[:2] == (3, "text") and "KeyError: 'main.0.weight'" in found[2]
    monkeypatch.setattr(convert, "run", lambda request: __import__("os")._exit(9))
    (found,) = fuzz.batch(range(3, 4), tmp_path, files)
    assert found[:2] == (3, "text") and "the process ended with status" in found[2]
