"""Other zoos by --zoo, whole tasks by `pull --task`, and work without any connection."""

import hashlib
import json
from pathlib import Path

from tests.cli.runs import pictures
from tests.zoo.conftest import CONFIG, World
from tests.zoo.hubserver import Fault
from tests.zoo.test_pull import three_parts
from tests.zoo.test_upstream import state_dict

NO_SOCKETS = """
import pathlib, socket

def refused(*asked, **options):
    with pathlib.Path({log!r}).open("a") as f:
        f.write(f"{{asked[-2:]}}\\n")
    raise OSError("no connection is allowed here")

# A name's address is asked of a server too.
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refused
"""


LENET = "lenet-mnist:\n  model: lenet\n  weights: {builtin: lenet-mnist}\n  card: {task: classify, license: MIT}\n"


def names(world: World, *args: str) -> list[str]:
    done = world.run("zoo", "list", "-q", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_zoo_at_an_address(world: World) -> None:
    text = world.zoo_of(world.publish()).read_text()
    other = world.folder / "other.yaml"
    other.write_text(text.replace("tiny-gan", "file-gan"))
    assert names(world, "--zoo", str(other)) == ["file-gan"] and names(world) == ["tiny-gan"]
    world.hub.files["zoo.yaml"] = text.replace("tiny-gan", "their-gan").encode()
    address = f"{world.hub.url}/upstream/zoo.yaml"
    assert names(world, "--zoo", address) == ["their-gan"]
    # It is asked for each time, and the copy does where it cannot be.
    world.hub.files["zoo.yaml"] = text.replace("tiny-gan", "new-gan").encode()
    assert world.run("zoo", "list", "-q", GANCTL_ZOO=address).stdout == "new-gan\n"
    world.hub.requests.clear()
    assert names(world, "--zoo", address, "--offline") == ["new-gan"] and world.hub.requests == []
    completed = world.run("zoo", "info", "", GANCTL_ZOO=address, _GANCTL_COMPLETE="fish")
    assert completed.stdout.split()[0] == "new-gan" and world.hub.requests == []
    world.hub.faults.append(Fault("/upstream/", "503", times=4))
    done = world.run("zoo", "list", "-q", "-v", "--zoo", address)
    assert done.returncode == 0 and done.stdout == "new-gan\n"
    world.hub.faults.clear()
    # What is no zoo does not take its place.
    world.hub.files["zoo.yaml"] = b"<html>log in</html>"
    done = world.run("zoo", "list", "--zoo", address)
    assert done.returncode == 2 and f"cannot use zoo '{address}'" in done.stderr
    three_parts(done.stderr)
    assert names(world, "--zoo", address, "--offline") == ["new-gan"]
    world.hub.files["zoo.yaml"] = b"a" * ((4 << 20) + 1)
    done = world.run("zoo", "list", "--zoo", address)
    assert done.returncode == 4 and f"it is longer than {4 << 20} bytes" in done.stderr


def test_a_pinned_zoo_is_what_it_was(world: World) -> None:
    data = world.zoo_of(world.publish()).read_bytes()
    world.hub.files["zoo.yaml"] = data
    address = f"{world.hub.url}/upstream/zoo.yaml#sha256={hashlib.sha256(data).hexdigest()}"
    done = world.run("zoo", "list", "--zoo", address, "--offline")
    assert done.returncode == 4 and "it is not cached" in done.stderr
    assert names(world, "--zoo", address) == ["tiny-gan"]
    world.hub.requests.clear()
    assert names(world, "--zoo", address) == ["tiny-gan"] and world.hub.requests == []
    (kept,) = (world.folder / "cache" / "zoos").glob("*/zoo.yaml")
    kept.write_bytes(data + b"# changed\n")
    world.hub.files["zoo.yaml"] = data + b"# changed\n"
    done = world.run("zoo", "list", "--zoo", address)
    assert done.returncode == 4 and "the address says" in done.stderr
    three_parts(done.stderr)
    for wrong, why in (
        ("http://host.org/zoo.yaml", "must begin with https://"),
        (f"{address}00", "has no sha256 of 64"),
    ):
        done = world.run("zoo", "list", "--zoo", wrong)
        assert done.returncode == 2 and why in done.stderr


def test_a_whole_task_is_pulled_and_then_nothing_is_asked(world: World) -> None:
    text = world.zoo_of(world.publish()).read_text()
    world.zoo(text + text.replace("tiny-gan", "twin-gan") + LENET)
    done = world.run("zoo", "pull", "--task", "sample", "--json")
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["tiny-gan", "twin-gan"]
    nothing = world.run("zoo", "pull", "--task", "translate")
    assert nothing.returncode == 2 and "the zoo has nothing to translate" in nothing.stderr
    alone, log = without_sockets(world)
    for command in (("zoo", "pull", "--task", "sample"), ("sample", "tiny-gan", "-o", "out", "--device", "cpu")):
        done = world.run(*command, **alone)
        assert done.returncode == 0, done.stderr
    assert world.run("zoo", "pull", "org/other", **alone).returncode == 4
    assert not log.exists()
    # The watch works: the same without the switch is written down.
    assert world.run("zoo", "pull", "org/other", **{**alone, "HF_HUB_OFFLINE": ""}).returncode == 4
    assert log.exists() and Path(world.folder / "out" / "seed0000.png").is_file()


def without_sockets(world: World) -> tuple[dict[str, str], Path]:
    """An environment offline whose Python connects to nothing, and the file in which it writes down who tried."""
    site, log = world.folder / "site", world.folder / "connections.txt"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_SOCKETS.format(log=str(log)))
    return {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{site}:{world.env['PYTHONPATH']}"}, log


def test_no_command_asks_anything_offline(world: World) -> None:
    """Both roads and a repository of anyone, once they are here, in every command that opens models."""
    theirs = world.zoo_upstream("net-1.pth", state_dict(1), unpinned=True).read_text()
    world.zoo(theirs + world.zoo_of(world.publish()).read_text() + LENET)
    assert world.run("zoo", "pull", "theirs", "tiny-gan", "org/tiny").returncode == 0
    pictures(world.folder / "images", n=8, size=(16, 16), mode="L")
    alone, log = without_sockets(world)
    world.hub.requests.clear()
    sizes = [f"--set={key}={value}" for key, value in {**CONFIG, "batch": 4, "kimg": 0.008}.items()]
    for line in (
        "zoo list --json",
        "zoo info tiny-gan",
        "zoo verify",
        "zoo pull theirs tiny-gan org/tiny",
        "sample org/tiny -n 2 -o org --device cpu",
        "fid images tiny-gan --metrics fd-lenet --resolution 28 -n 8",
        "train dcgan images -o run --init-from tiny-gan",
    ):
        done = world.run(*line.split(), *(sizes if line.startswith("train") else ()), **alone)
        assert done.returncode == 0, (line, done.stderr)
    assert not log.exists() and world.hub.requests == []
    assert "started from 'tiny-gan'" in done.stderr
