"""`zoo check`: every address of a zoo asked, and what is wrong told line by line."""

import hashlib
import json

from tests.zoo.conftest import World
from tests.zoo.hubserver import Fault


def lines(world: World, *args: str) -> tuple[int, dict[str, dict]]:
    done = world.run("zoo", "check", *args, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {r["name"]: r for r in rows if "name" in r}


def test_every_address_is_asked_and_large_files_are_not_sent(world: World) -> None:
    data = b"\x80 no weights, but bytes"
    theirs = world.zoo_upstream("net-1.pth", data).read_text()
    large = (
        theirs.replace("theirs", "large").replace(f"bytes: {len(data)}", "bytes: 20000000").replace("net-1", "net-2")
    )
    world.hub.files["net-2.pth"] = bytes(20_000_000)
    zoo = world.zoo_of(world.publish()).read_text()
    world.zoo(zoo + theirs + large)
    world.hub.faults.append(Fault("/resolve/", "redirect"))
    code, rows = lines(world)
    assert code == 0 and list(rows) == ["tiny-gan", "theirs", "large"]
    digest = hashlib.sha256(world.weights()).hexdigest()
    assert rows["tiny-gan"] == {
        "name": "tiny-gan",
        "road": "hub",
        "host": "localhost",
        "redirects": 1,
        "bytes": len(world.weights()),
        "expected_bytes": len(world.weights()),
        "sha256": digest,
        "hash": "told",
        "status": "ok",
    }
    assert rows["theirs"]["hash"] == "read" and rows["theirs"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert rows["large"]["hash"] is None and rows["large"]["bytes"] == 20_000_000
    assert world.hub.gets("net-2") == 0 and world.hub.gets("/resolve/") == 0
    # Its hash is that of another file, which only reading it tells.
    code, rows = lines(world, "large", "theirs", "--download")
    assert code == 3 and rows["large"]["status"] == "broken" and "its sha256 is" in rows["large"]["error"]
    assert not list((world.folder / "cache").rglob("*.pth"))


def test_what_is_broken_is_told_and_the_others_are_asked(world: World) -> None:
    data = b"\x80 no weights, but bytes"
    text = world.zoo_upstream("net-1.pth", data).read_text()
    zoo = text + text.replace("theirs", "gone").replace("net-1", "net-2")
    zoo += text.replace("theirs", "longer").replace("net-1", "net-3")
    zoo += text.replace("theirs", "other").replace("net-1", "net-4")
    world.hub.files |= {"net-3.pth": data + b"!", "net-4.pth": data[:-1] + b"!"}
    world.zoo(zoo)
    done = world.run("zoo", "check")
    assert done.returncode == 3 and "3 of 4 addresses are broken" in done.stderr
    told = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert told["theirs"].startswith(f"ok\tupstream\t{len(data)} B\tread\t127.0.0.1")
    assert told["gone"].startswith("broken\t") and "the file is gone (404)" in told["gone"]
    assert f"it has {len(data) + 1} bytes, the zoo says {len(data)}" in told["longer"]
    assert "its sha256 is" in told["other"]
    # A server without HEAD is asked for the first byte.
    world.hub.faults.append(Fault("/upstream/", "405", method="HEAD"))
    code, rows = lines(world, "theirs")
    assert code == 0 and rows["theirs"]["bytes"] == len(data)
    offline = world.run("zoo", "check", "--offline")
    assert offline.returncode == 4 and "forbids requests" in offline.stderr
