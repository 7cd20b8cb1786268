"""zoo list, info, verify, path, rm: what they print, refuse and return."""

import hashlib
import json
import shutil
from pathlib import Path

from tests.conftest import ROOT
from tests.zoo.conftest import World
from tests.zoo.test_pull import three_parts

KEYS = [
    *("name", "task", "model", "resolution", "classes", "license"),
    *("noncommercial", "bytes", "builtin", "cached", "hash", "metrics", "measured"),
]


def rows(world: World, *args: str) -> list[dict]:
    done = world.run("zoo", "list", *args, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_list(world: World) -> None:
    text = world.zoo_of(
        world.publish(), card=", noncommercial: true, metrics: {fid50k_full: 12.5}, classes: 3"
    ).read_text()
    builtin = (
        "lenet-mnist:\n  model: lenet\n  weights: {builtin: lenet-mnist}\n  card: {task: classify, license: MIT}\n"
    )
    gone = builtin.replace("lenet-mnist", "gone-gan").replace("classify", "translate")
    world.zoo(text + builtin + gone)
    found = rows(world)
    assert [list(r) for r in found] == [KEYS] * 3
    assert found[0] == {
        "name": "tiny-gan",
        "task": "sample",
        "model": "dcgan",
        "resolution": 16,
        "classes": 3,
        "license": "Apache-2.0",
        "noncommercial": True,
        "bytes": len(world.weights()),
        "builtin": False,
        "cached": False,
        "hash": "published",
        "metrics": {"fid50k_full": 12.5},
        "measured": {},
    }
    # The bundle tells what the entry does not.
    assert found[1]["resolution"] == 28 and found[1]["classes"] == 10 and found[1]["cached"] and found[1]["builtin"]
    assert found[2]["builtin"] and not found[2]["cached"] and found[2]["bytes"] is None

    def names(*args: str) -> list[str]:
        return [r["name"] for r in rows(world, *args)]

    assert names("mnist") == names("lenet-*") == names("--cached") == names("--license", "mit", "le") == ["lenet-mnist"]
    assert names("--task", "sample") == names("--task", "invert") == ["tiny-gan"]
    assert names("--task", "translate") == ["gone-gan"] and names("--license", "mit") == ["lenet-mnist", "gone-gan"]
    assert world.run("zoo", "list", "-q").stdout.split() == ["tiny-gan", "lenet-mnist", "gone-gan"]
    line = world.run("zoo", "list", "tiny").stdout
    assert line.split("\t")[:5] == ["tiny-gan", "sample", "16", "3", "Apache-2.0 (non-commercial)"]
    assert line.rstrip().endswith("\tfid50k_full 12.5")
    # Which ones may be used is said before they are downloaded, not after.
    pulled = world.pull()
    assert "warning: tiny-gan is for non-commercial use only" in pulled.stderr
    assert names("--cached") == ["tiny-gan", "lenet-mnist"]
    assert world.hub.gets("/resolve/") == 1


def test_one_damaged_bundle_does_not_hide_the_zoo(world: World) -> None:
    data = world.weights()
    world.zoo_upstream("x.pth", data)
    folder = world.folder / "cache" / "bundles" / f"theirs-{hashlib.sha256(data).hexdigest()[:16]}"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{")
    done = world.run("zoo", "list", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["cached"] is False
    assert "warning: theirs is damaged" in done.stderr and "model.json is not readable JSON" in done.stderr


def test_info(world: World) -> None:
    commit = world.publish()
    world.zoo_of(commit, card=", metrics: {fid50k_full: 2.5}, measured: {fid50k_full: 2.75}, trunc: 0.7, align: ffhq")
    facts = json.loads(world.run("zoo", "info", "tiny-gan", "--json").stdout)
    assert set(facts) > {*KEYS, "source", "revision", "sha256", "path", "config"}
    assert facts["revision"] == commit and facts["source"] == f"org/tiny@{commit}/G.safetensors"
    assert facts["metrics"] == {"fid50k_full": 2.5} and facts["measured"] == {"fid50k_full": 2.75}
    assert facts["trunc"] == 0.7 and facts["align"] == "ffhq" and facts["path"] is None
    lines = world.run("zoo", "info", "tiny-gan").stdout.splitlines()
    assert "license\tApache-2.0" in lines and "metrics\tfid50k_full=2.5" in lines and "cached\tno" in lines
    assert world.hub.requests == []


def test_verify_looks_at_the_picture_too(world: World) -> None:
    world.zoo_of(world.publish())
    missing = world.run("zoo", "verify", "tiny-gan")
    assert missing.returncode == 4 and "it was never pulled" in missing.stderr
    assert world.run("zoo", "verify").stdout == ""
    world.pull()
    seen = json.loads(world.run("zoo", "verify", "--json").stdout)
    assert set(seen["checks"]) == {"mean", "std"} and seen["pinned"] and seen["checked"] == []
    mean, std = seen["checks"]["mean"], seen["checks"]["std"]
    commit = seen["revision"]
    world.zoo_of(commit, card=f", checks: {{mean: {mean}, std: {std}}}")
    again = json.loads(world.run("zoo", "verify", "tiny-gan", "--json").stdout)
    assert again["status"] == "ok" and again["checked"] == ["mean", "std"] and again["checks"] == seen["checks"]
    world.zoo_of(commit, card=f", checks: {{mean: {mean + 0.1}}}")
    wrong = world.run("zoo", "verify", "tiny-gan")
    assert wrong.returncode == 4 and "tiny-gan does not draw what it should" in wrong.stderr
    assert f"mean of its seed-0 picture is {mean}" in wrong.stderr
    three_parts(wrong.stderr)


def test_rm(world: World) -> None:
    commit = world.publish()
    world.zoo_of(commit)
    world.pull()
    kept = world.run("zoo", "rm", "tiny-gan")
    assert kept.returncode == 2 and "it needs --yes" in kept.stderr
    assert world.run("zoo", "path", "tiny-gan").returncode == 0
    gone = json.loads(world.run("zoo", "rm", "tiny-gan", "--yes", "--json").stdout)
    assert gone == {"name": "tiny-gan", "bytes": len(world.weights()), "status": "removed"}
    assert not [p for p in (world.folder / "hf").rglob("*") if p.is_file() and p.stat().st_size == len(world.weights())]
    assert world.run("zoo", "rm", "tiny-gan", "--yes").stdout == "tiny-gan\tabsent\n"
    nothing = world.run("zoo", "rm", "tiny-gan", "other", "--yes")
    assert nothing.returncode == 2 and "unknown model 'other'" in nothing.stderr


def test_a_blob_that_another_commit_uses_stays(world: World) -> None:
    first = world.publish()
    second = world.hub.add("org/tiny", {"new.txt": b"x"})
    text = world.zoo_of(first).read_text()
    world.zoo(text + text.replace("tiny-gan", "new-gan").replace(first, second))
    assert world.run("zoo", "pull", "tiny-gan", "new-gan").returncode == 0
    assert json.loads(world.run("zoo", "rm", "tiny-gan", "--yes", "--json").stdout)["bytes"] == 0
    assert world.run("zoo", "verify", "new-gan").returncode == 0


def test_another_zoo_is_whole_by_itself(world: World) -> None:
    shutil.copy(ROOT / "zoo.yaml", world.folder / "copy.yaml")
    world.zoo_of(world.publish())
    assert world.run("zoo", "list", "-q").stdout == "tiny-gan\n"
    names = world.run("zoo", "list", "-q", GANCTL_ZOO=str(world.folder / "copy.yaml")).stdout.split()
    assert "dcgan-fashion-mnist" in names and "tiny-gan" not in names
    done = world.run("zoo", "list", GANCTL_ZOO="nowhere.yaml")
    assert done.returncode == 2 and "check --zoo and GANCTL_ZOO" in done.stderr


def test_sample_straight_from_the_hub(world: World) -> None:
    """First use downloads; the second needs no request."""
    world.zoo_of(world.publish())
    done = world.run("sample", "tiny-gan", "-n", "2", "-o", "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.splitlines()] == ["seed0000.png", "seed0001.png"]
    world.hub.requests.clear()
    assert world.run("sample", "tiny-gan", "--seeds", "7", "-o", "out", "--device", "cpu").returncode == 0
    assert world.hub.requests == []


def test_pictures_for_a_terminal(tmp_path: Path, monkeypatch, capsys) -> None:
    """Drawn once and kept; half a character each, two rows a line."""
    from ganctl.cli import show
    from ganctl.workflows.thumbnail import thumbnail

    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path))
    monkeypatch.delenv("GANCTL_ZOO", raising=False)
    pixels = thumbnail("dcgan-mnist")
    assert pixels is not None and pixels.shape == (24, 76, 3) and pixels.std() > 30
    (kept,) = (tmp_path / "thumbnails").iterdir()
    before = kept.stat().st_mtime_ns
    again = thumbnail("dcgan-mnist")
    assert again is not None and (again == pixels).all() and kept.stat().st_mtime_ns == before
    assert thumbnail("lenet-mnist") is None
    show.picture(pixels)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all(line.count("▀") == 76 and line.endswith("\x1b[0m") for line in lines)
    r, g, b = pixels[1, 5]
    assert f"48;2;{r};{g};{b}m" in lines[0]
