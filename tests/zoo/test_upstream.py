"""The authors' own file: downloaded with patience, hashed, converted once as data, and what each fault says."""

import hashlib
import io
import json
import time
from pathlib import Path

import pytest
import torch

from tests.zoo.conftest import TOKEN, World
from tests.zoo.hubserver import Fault
from tests.zoo.test_pull import three_parts


def state_dict(megabytes: int = 3) -> bytes:
    """A real file of torch.save, with tensors of no network of ours."""
    torch.manual_seed(0)
    stream = io.BytesIO()
    torch.save({"fc.weight": torch.randn(megabytes << 10, 256), "fc.bias": torch.ones(3)}, stream)
    return stream.getvalue()


def pull(world: World, **env: str):
    return world.run("zoo", "pull", "theirs", **env)


def left(world: World) -> list[Path]:
    return [p for p in (world.folder / "cache").rglob("*") if p.is_file() and p.parent.name != "sha256"]


def test_pull_verify_list_path_rm(world: World) -> None:
    data = state_dict()
    world.zoo_upstream("net-1.pth", data)
    world.hub.faults += [
        Fault("/upstream/net-1", "redirect", times=1, headers={"Location": f"{world.hub.url}/upstream/moved"}),
        Fault("/upstream/moved", "cut", times=1),
    ]
    world.hub.files["moved"] = data
    done = world.run("zoo", "pull", "theirs", "--json", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "going on with pull theirs at byte 1048576" in done.stderr
    assert [h["range"] for h in world.hub.headers if "range" in h] == ["bytes=1048576-"]
    # The token is the Hub's; nobody else gets it.
    assert not any("authorization" in h for h in world.hub.headers)
    from ganctl.io.bundle import read_bundle

    bundle = read_bundle(Path(json.loads(done.stdout)["path"]))
    state = bundle.state("features")
    assert bundle.model == "inception" and set(state) == {"fc.weight", "fc.bias"}
    assert torch.equal(state["fc.weight"], torch.load(io.BytesIO(data), weights_only=True)["fc.weight"])
    # From here on nothing is asked.
    world.hub.requests.clear()
    assert json.loads(world.run("zoo", "pull", "theirs", "--json").stdout)["status"] == "cached"
    assert json.loads(world.run("zoo", "list", "--cached", "--json").stdout)["bytes"] == len(data)
    path = Path(world.run("zoo", "path", "theirs").stdout.strip())
    assert path == bundle.path / "features.safetensors"
    verified = json.loads(world.run("zoo", "verify", "theirs", "--json").stdout)
    assert verified["sha256"] == hashlib.sha256(data).hexdigest() and verified["status"] == "ok"
    removed = world.run("zoo", "rm", "theirs", "--yes", "--json")
    assert json.loads(removed.stdout)["bytes"] > len(data) and left(world) == []
    assert world.hub.requests == []


FAULTS = {
    "404": ([Fault("/upstream/", "404")], "the file is gone (404)"),
    "403": ([Fault("/upstream/", "403")], "it answered 403"),
    "503 for ever": ([Fault("/upstream/", "503")], "503, 4 times in a row"),
    "an hour": ([Fault("/upstream/", "429", headers={"Retry-After": "3600"})], "asks to wait 3600 s"),
    "flipped": ([Fault("/upstream/", "flip")], "its sha256 is "),
    "cut for ever": ([Fault("/upstream/", "cut")], "the connection was cut"),
    "hang": ([Fault("/upstream/", "hang")], "no answer within 1 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_leave_nothing_behind(world: World, fault: str) -> None:
    faults, text = FAULTS[fault]
    world.zoo_upstream("net-1.pth", b"x" * 5000)
    world.hub.faults += [Fault(**vars(f)) for f in faults]
    done = pull(world, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert done.returncode == 4 and text in done.stderr, done.stderr
    three_parts(done.stderr)
    assert left(world) == []


def test_wrong_sizes(world: World) -> None:
    world.zoo_upstream("net-1.pth", b"x" * 5000, size=4000)
    done = pull(world)
    assert done.returncode == 4 and "longer than the expected 4000 bytes" in done.stderr
    world.zoo_upstream("net-1.pth", b"x" * 5000, size=6000)
    done = pull(world)
    assert done.returncode == 4 and "it has 5000 bytes, expected 6000" in done.stderr
    three_parts(done.stderr)
    assert left(world) == []


def test_429_is_waited_for(world: World) -> None:
    world.zoo_upstream("net-1.pth", b"no weights at all")
    world.hub.faults.append(Fault("/upstream/", "429", times=1, headers={"Retry-After": "2"}))
    start = time.monotonic()
    done = pull(world)
    assert "waiting 2 s for 127.0.0.1" in done.stderr and time.monotonic() - start >= 2
    # The bytes are right, and still no weights.
    assert done.returncode == 4 and "net-1.pth" in done.stderr
    three_parts(done.stderr)


def test_never_sent_on_to_plain_http(world: World) -> None:
    world.zoo_upstream("net-1.pth", b"x" * 5000)
    elsewhere = {"Location": "http://elsewhere.invalid/upstream/net-1.pth"}
    world.hub.faults.append(Fault("/upstream/", "redirect", times=1, headers=elsewhere))
    # The small Hub is the proxy too, so the address of nobody answers.
    done = pull(world, http_proxy=world.hub.url, no_proxy="127.0.0.1")
    assert done.returncode == 4 and "sends us on to an address without https" in done.stderr
    three_parts(done.stderr)
    assert left(world) == []


def test_offline_and_a_damaged_copy(world: World) -> None:
    data = state_dict(1)
    world.zoo_upstream("net-1.pth", data)
    done = world.run("zoo", "pull", "theirs", "--offline")
    assert done.returncode == 4 and "theirs not cached and offline; run: ganctl zoo pull theirs" in done.stderr
    assert world.hub.requests == []
    kept = world.folder / "cache" / "upstream" / hashlib.sha256(data).hexdigest() / "net-1.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(data[:-1] + b"?")
    done = world.run("zoo", "pull", "theirs", "--offline")
    assert done.returncode == 4 and "its sha256 is " in done.stderr
    done = pull(world)
    assert done.returncode == 0 and "the cached file of theirs is damaged" in done.stderr
    assert kept.read_bytes() == data


def test_three_processes_at_once(world: World) -> None:
    data = state_dict(1)
    world.zoo_upstream("net-1.pth", data)
    started = [world.start("zoo", "pull", "theirs", "-q") for _ in range(3)]
    ended = [(p.communicate(timeout=240), p.returncode) for p in started]
    assert [code for _, code in ended] == [0] * 3, ended
    assert len({out for (out, _), _ in ended}) == 1
    assert sorted(p.name for p in left(world)) == ["features.safetensors", "model.json", "net-1.pth"]
    assert world.run("zoo", "verify", "theirs").returncode == 0


def test_full_disk(world: World) -> None:
    world.zoo_upstream("net-1.pth", bytes(4 << 20))
    done = world.on_small_disk("zoo", "pull", "theirs")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr or "File too large" in done.stderr
    three_parts(done.stderr)


def test_a_published_prefix_pins_too(world: World) -> None:
    data = state_dict(1)
    world.zoo_upstream("net-1.pth", data, sha256=hashlib.sha256(data).hexdigest()[:8])
    done = pull(world)
    assert done.returncode == 0 and "only the first 8 digits of its sha256 were published; " in done.stderr
    world.zoo_upstream("net-2.pth", data, sha256="01234567")
    done = pull(world)
    assert done.returncode == 4 and "the zoo says 01234567" in done.stderr


def test_a_hash_that_nobody_published_is_that_of_the_first_download(world: World) -> None:
    """It is said and kept, zoo rm leaves it, every verb tells it, another file is refused, and a user can accept it."""
    data, digest = (found := state_dict(1)), hashlib.sha256(found).hexdigest()
    world.zoo_upstream("net-1.pth", data, unpinned=True)
    assert json.loads(world.run("zoo", "list", "--json").stdout)["hash"] is None
    # A page that asks for a login is not remembered.
    world.hub.files["net-1.pth"] = b"<html>log in</html>"
    done = pull(world)
    assert done.returncode == 4 and "it is no file of weights: a web page, perhaps" in done.stderr and not left(world)
    world.hub.files["net-1.pth"] = data
    # Two at once remember the same; the note is what says so.
    ended = [(p.communicate(timeout=240), p.returncode) for p in [world.start("zoo", "pull", "theirs") for _ in "ab"]]
    assert [code for _, code in ended] == [0, 0], ended
    assert (
        f"theirs: its sha256 was not published, nor was its size; {digest} is remembered"
        in ended[0][0][1] + ended[1][0][1]
    )
    lock = world.folder / "cache" / "first-seen.jsonl"
    (seen,) = {line: json.loads(line) for line in lock.read_text().splitlines()}.values()
    url = f"{world.hub.url}/upstream/net-1.pth"
    assert seen == {"name": "theirs", "url": url, "sha256": digest, "bytes": len(data), "date": seen["date"]}
    known = f"first seen {seen['date']}"
    assert world.run("zoo", "verify").stdout == f"theirs\tok\t{digest}\t{known}\n"
    info = json.loads(world.run("zoo", "info", "theirs", "--json").stdout)
    assert (info["hash"], info["sha256"]) == (known, digest)
    (here,) = (world.folder / "cache" / "upstream").glob("*/net-1.pth")
    here.write_bytes(data[:-1] + b"x")
    done = world.run("zoo", "verify", "theirs")
    assert done.returncode == 4 and f", the lock file says {digest}" in done.stderr
    assert world.run("zoo", "rm", "theirs", "--yes").returncode == 0
    world.hub.files["net-1.pth"] = other = state_dict(2)
    done = pull(world)
    assert done.returncode == 4, done.stderr
    assert f"its sha256 is {hashlib.sha256(other).hexdigest()}, and was {digest} when it was {known}" in done.stderr
    assert f"remove the line of {digest[:8]} from" in done.stderr
    assert [p.name for p in left(world)] == [lock.name]
    lock.unlink()
    done = pull(world)
    assert done.returncode == 0 and "is remembered" in done.stderr


def test_the_first_line_of_the_lock_file_holds_and_a_damaged_one_does_not(tmp_path: Path, monkeypatch) -> None:
    from ganctl.catalog import Upstream
    from ganctl.errors import WeightsError
    from ganctl.io import hub
    from ganctl.io.progress import Reporter

    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path))
    notes: list[str] = []
    one = Upstream("https://host.org/a.pkl", "", "nvidia-pickle")
    two = Upstream("https://host.org/b-01234567.pth", "01234567", "torch-checkpoint", 9)
    hub.lock_file().write_bytes(b'{"url": "https://host.org/a.pkl", "sha2')  # cut short by a full disk
    assert hub.pin(one) == ("", "") and hub.pin(two) == ("01234567", "prefix")
    full = {one: "a" * 64, two: "01234567" + "b" * 56}
    for upstream, digest in full.items():
        for _ in range(2):
            hub._hold("x", upstream, tmp_path / "x", digest, 9, Reporter(note=notes.append))
    assert len(notes) == 2 and "only the first 8 digits of its sha256 were published;" in notes[1]
    assert [hub.pin(u)[0] for u in full] == list(full.values()) and hub.pin(two)[1].startswith("prefix, first seen 2")
    with hub.lock_file().open("a") as f:
        f.write(json.dumps({"url": one.url, "sha256": "c" * 64, "date": "2000-01-01"}) + "\n")
    assert hub.pin(one)[0] == "a" * 64
    for upstream, digest in ((one, "c" * 64), (two, "01234567" + "c" * 56)):
        with pytest.raises(WeightsError, match=r"its sha256 is .*, and was .* first seen"):
            hub._hold("x", upstream, tmp_path / "x", digest, 9, Reporter())
    # Another beginning is another file.
    assert hub.pin(Upstream(two.url, "89abcdef", "torch-checkpoint")) == ("89abcdef", "prefix")
