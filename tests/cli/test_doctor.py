"""`ganctl doctor`: one screen of findings, each by use."""

import json

from tests.conftest import Shell
from tests.zoo.hubserver import serve

CHECKS = [
    *("ganctl", "python", "torch", "device", "video"),
    *("zoo", "built-in models", "Hub cache", "ganctl cache", "Hub"),
]


def findings(out: str) -> dict[str, dict]:
    rows = [json.loads(line) for line in out.splitlines()]
    return {row["check"]: row for row in rows if "check" in row}


def test_a_usable_machine(ganctl: Shell) -> None:
    import torch

    from ganctl import __version__

    with serve() as hub:
        done = ganctl.ok("doctor", "--json", HF_ENDPOINT=hub.url, HF_TOKEN="hf_" + "abcdefghijklmnop")
        assert [method for method, _ in hub.requests] == ["HEAD"]
    found = findings(done.out)
    assert list(found) == CHECKS and all(set(f) == {"check", "status", "value", "hint"} for f in found.values())
    assert found["ganctl"]["value"].startswith(__version__) and found["torch"]["value"].startswith(torch.__version__)
    assert "cpu will be used" in found["device"]["value"]
    for check in CHECKS:
        if check not in ("built-in models", "video"):
            assert found[check]["status"] == "ok", found[check]
    assert "lenet-mnist" in found["built-in models"]["value"]
    assert found["Hub"]["value"] == "127.0.0.1 answers, with a token" and "hf_" not in done.out + done.err
    assert " GB free" in found["Hub cache"]["value"] and "home" in found["ganctl cache"]["value"]
    assert all(bool(f["hint"]) == (f["status"] != "ok") for f in found.values())


def test_offline_asks_nothing_and_what_is_missing_has_a_hint(ganctl: Shell, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with serve() as hub:
        done = ganctl.ok("doctor", "--offline", HF_ENDPOINT=hub.url, GANCTL_CACHE=str(tmp_path / "file" / "cache"))
        assert hub.requests == []
    lines = done.lines
    assert "ok       Hub              offline by --offline or HF_HUB_OFFLINE: nothing is asked" in lines
    at = next(i for i, line in enumerate(lines) if line.startswith("missing  ganctl cache"))
    assert "cannot be written" in lines[at]
    assert lines[at + 1].strip() == "hint: set GANCTL_CACHE to a folder that can be written"
    assert len(lines) < 30 and done.err == ""


def test_what_is_broken_ends_with_its_code(ganctl: Shell, tmp_path) -> None:
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text("a: 1\nb: 2\n")
    # Nobody listens at the Hub's address: that costs nothing but the Hub.
    done = ganctl("doctor", "--json", GANCTL_ZOO=str(zoo))
    found = findings(done.out)
    assert done.code == 1 and json.loads(done.lines[-1])["error"]["message"].endswith("broken: zoo, built-in models")
    assert found["zoo"]["status"] == "broken" and "line 1: 'a' must be a mapping" in found["zoo"]["value"]
    assert found["zoo"]["value"].endswith("; and 1 more")
    assert found["Hub"]["status"] == "missing" and "cannot reach 127.0.0.1" in found["Hub"]["value"]
    import torch

    if not torch.cuda.is_available():
        done = ganctl("doctor", "-q", "--offline", "--device", "cuda")
        assert done.code == 5 and "broken: device" in done.err
        assert done.lines[0] == "device" and "ganctl" not in done.lines
