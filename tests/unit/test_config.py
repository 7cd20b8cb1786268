"""Configs checked at the boundary, and YAML read as plain data."""

import os
from pathlib import Path

import pytest

from ganctl.config import MAX_YAML_BYTES, config, parse, read_yaml, to_plain, write_yaml
from ganctl.errors import UsageError


@config
class Example:
    resolution: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.resolution % 4:
            raise ValueError(f"resolution must be a multiple of 4, not {self.resolution}")


def why(values: dict) -> str:
    with pytest.raises(UsageError) as e:
        parse(Example, values, where="recipe 'x.yaml'")
    assert e.value.what == "cannot use recipe 'x.yaml'" and e.value.hint
    return e.value.why


def test_parse_builds_the_class_and_back() -> None:
    cfg = parse(Example, {"resolution": 32, "betas": [0.0, 0.9]}, where="it")
    assert cfg == Example(resolution=32, betas=(0.0, 0.9))
    assert to_plain(cfg) == {"resolution": 32, "lr": 2e-4, "betas": [0.0, 0.9], "name": None}
    assert parse(Example, to_plain(cfg), where="it") == cfg
    assert read_yaml(write_yaml(cfg), where="it").value == to_plain(cfg)


def test_parse_names_every_fault_and_the_near_key() -> None:
    assert why({"resolutoin": 32, "zzz": 1}) == (
        "unknown key 'resolutoin' (did you mean resolution?); unknown key 'zzz'; known: resolution, lr, betas, name"
    )
    faults = why({"resolution": "many", "lr": "slow"})
    assert faults.startswith("resolution: ") and "; lr: " in faults and "got 'many'" in faults
    assert why({"resolution": 30}) == "resolution must be a multiple of 4, not 30"
    assert len(why({"name": ["x" * 10000]})) < 300


FAULTS = {
    "a: b: c": "line 1: mapping values are not allowed in this context",
    "x: 1\na: [1\nb: 2": "line 3: did not find expected ',' or ']'",
    "a: 1\nb: 2\na: 3": "line 3: duplicate key 'a', first on line 1",
    "a: {b: 1, b: 2}\nc: {d: 1, d: 2}": (
        "line 1: duplicate key 'b', first on line 1\nline 2: duplicate key 'd', first on line 2"
    ),
    "1: 2\n? [a]\n: 3\n2024-13-45: 4\n<<: {a: 1}": (
        "line 1: key '1' is not text\nline 2: key that is a sequence is not text\n"
        "line 4: key '2024-13-45' is not text\nline 5: key '<<' is not text"
    ),
    "a: &x 1\nb: *x\nc: !!python/object/apply:os.system [ls]": (
        "lines 1, 2, 3: anchors, aliases and tags are not allowed"
    ),
    "a: =": "line 1: cannot read '='",
    "a: 2024-13-45": "line 1: cannot read '2024-13-45'",
    "a: " + "9" * 5000: "line 1: cannot read '" + "9" * 80 + "'",
    "--- 1\n--- 2": "line 2: but found another document",
    "- " * 33 + "a": "line 1: nested deeper than 32 levels",
    "{a: " * 33 + "1" + "}" * 33: "line 1: nested deeper than 32 levels",
    "a: \x07": "control characters are not allowed",
}


@pytest.mark.parametrize("text", FAULTS)
def test_yaml_faults_have_lines(text: str) -> None:
    with pytest.raises(UsageError) as e:
        read_yaml(text, where="it")
    assert e.value.what == "cannot use it" and e.value.why == FAULTS[text] and e.value.hint


def test_deep_or_endless_yaml_ends(tmp_path: Path) -> None:
    for text in ("[" * 1_000_000, "- " * 1_000_000, "{a: " * 300_000, "a:\n" * 100_000):
        with pytest.raises(UsageError):
            read_yaml(text, where="it")
    bomb = "a: &a [x, x]\n" + "\n".join(f"{c}: &{c} [*{p}, *{p}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(UsageError, match="anchors"):
        read_yaml(bomb, where="it")


def test_yaml_files_are_regular_small_utf8(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(UsageError) as e:
            read_yaml(path, where=f"'{path.name}'")
        assert e.value.hint
        return e.value.why

    assert refusal(tmp_path / "none.yaml") == "there is no such file"
    assert refusal(tmp_path) == "it is a folder"
    assert refusal(Path("/dev/null")) == "it is not a regular file"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "it is not a regular file"
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    assert refusal(tmp_path / "latin.yaml") == "it is not UTF-8 text"
    with (tmp_path / "big.yaml").open("wb") as f:
        f.truncate(MAX_YAML_BYTES + 1)
    assert refusal(tmp_path / "big.yaml") == "it is larger than 4 MiB"
    (tmp_path / "loop").symlink_to("loop")
    assert "links" in refusal(tmp_path / "loop")


def test_yaml_keeps_lines_and_plain_values() -> None:
    found = read_yaml("a: 1\nb:\n  c: [x, 2.5, true, null]\n", where="it")
    assert found.value == {"a": 1, "b": {"c": ["x", 2.5, True, None]}}
    assert found.lines["b", "c"] == 3 and found.lines["a",] == 1
    assert read_yaml("", where="it").value is None
    faults: list[str] = []
    assert read_yaml("a: 1\na: 2", where="it", faults=faults).value == {"a": 1}
    assert faults == ["line 2: duplicate key 'a', first on line 1"]
