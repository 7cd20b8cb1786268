"""Downloads by the real client from a small Hub: what arrives, and what each fault says."""

import hashlib
import json
import signal
import time
from pathlib import Path

import pytest

from tests.zoo.conftest import TOKEN, World
from tests.zoo.hubserver import Fault


def three_parts(err: str) -> None:
    assert err.lstrip().startswith("error: ") or "\nerror: " in err
    assert "why: " in err
    assert "hint: " in err


def test_pull_puts_the_pinned_file_into_the_standard_cache(world: World) -> None:
    commit = world.publish()
    world.zoo_of(commit)
    done = world.run("zoo", "pull", "tiny-gan", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "pulled" and result["revision"] == commit
    pointer = world.folder / "hf/hub/models--org--tiny/snapshots" / commit / "G.safetensors"
    assert pointer.read_bytes() == world.weights()
    assert world.run("zoo", "path", "tiny-gan").stdout == f"{pointer}\n"


def test_no_request_when_cached_and_pinned(world: World) -> None:
    world.zoo_of(world.publish())
    assert world.pull().returncode == 0
    world.hub.requests.clear()
    again = world.run("zoo", "pull", "tiny-gan", "--json")
    assert json.loads(again.stdout)["status"] == "cached"
    assert world.run("zoo", "verify", "tiny-gan", "--offline").returncode == 0
    assert world.hub.requests == []


def test_offline_names_the_command(world: World) -> None:
    world.zoo_of(world.publish())
    for args, env in ((("--offline",), {}), ((), {"HF_HUB_OFFLINE": "1"})):
        done = world.run("zoo", "pull", "tiny-gan", *args, **env)
        assert done.returncode == 4
        assert "error: tiny-gan not cached and offline; run: ganctl zoo pull tiny-gan" in done.stderr
        three_parts(done.stderr)
    assert world.hub.requests == []


@pytest.mark.parametrize("status", ["401", "404"])
def test_private_or_missing(world: World, status: str) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", status))
    done = world.pull()
    assert done.returncode == 4
    assert "private or missing" in done.stderr
    three_parts(done.stderr)


def test_private_repository_opens_with_its_token(world: World) -> None:
    world.hub.token = TOKEN
    world.zoo_of(world.publish(private=True))
    refused = world.pull(HF_TOKEN="hf_" + "wrongwrongwrong")
    assert refused.returncode == 4 and "private or missing" in refused.stderr
    assert world.pull(HF_TOKEN=TOKEN).returncode == 0


def test_gated(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "403", headers={"X-Error-Code": "GatedRepo"}))
    done = world.pull()
    assert done.returncode == 4
    assert f"accept the terms at {world.hub.url}/org/tiny" in done.stderr
    three_parts(done.stderr)


def test_forbidden(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "403"))
    done = world.pull()
    assert done.returncode == 4 and "forbidden (403)" in done.stderr


def test_missing_file_and_revision(world: World) -> None:
    commit = world.hub.add("org/tiny", {"other.txt": b"x"})
    world.zoo_of(commit)
    assert "no such file at this revision" in world.pull().stderr
    world.zoo_of("0" * 40)
    done = world.pull()
    assert done.returncode == 4 and "no such revision" in done.stderr
    three_parts(done.stderr)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_429_waits_as_long_as_asked_and_shows_it(world: World, method: str) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "429", times=1, headers={"Retry-After": "2"}, method=method))
    start = time.monotonic()
    done = world.pull()
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start >= 2
    assert "waiting 2 s for 127.0.0.1" in done.stderr and "429" in done.stderr


def test_429_that_asks_for_an_hour_ends_at_once(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "429", headers={"Retry-After": "3600"}))
    start = time.monotonic()
    done = world.pull()
    assert time.monotonic() - start < 20
    assert done.returncode == 4 and "asks to wait 3600 s" in done.stderr
    three_parts(done.stderr)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_5xx_is_retried(world: World, method: str) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "503", times=2, method=method))
    done = world.pull()
    assert done.returncode == 0, done.stderr
    assert "it answered 503" in done.stderr


def test_5xx_for_ever_ends(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "500"))
    done = world.pull()
    assert done.returncode == 4 and "500, 4 times in a row" in done.stderr
    three_parts(done.stderr)


def test_cut_connection_is_tried_again_and_resumed(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "cut", times=2))
    done = world.pull()
    assert done.returncode == 0, done.stderr
    assert world.hub.gets("/resolve/") == 3
    # The Hub client writes 10 MiB at a time, and goes on from the last whole piece.
    big = bytes(range(256)) * (24 << 12)
    world.zoo_of(world.hub.add("org/tiny", {"G.safetensors": big}), data=big)
    world.hub.faults.append(Fault("/resolve/", "cut", times=1))
    done = world.pull()
    assert done.returncode == 0, done.stderr
    assert [h["range"] for h in world.hub.headers if "range" in h] == [f"bytes={10 << 20}-"]
    assert Path(world.run("zoo", "path", "tiny-gan").stdout.strip()).read_bytes() == big


def test_connection_cut_for_ever_leaves_nothing(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults += [Fault("/resolve/", "cut", times=1), Fault("/resolve/", "500", method="GET")]
    done = world.pull()
    assert done.returncode == 4, done.stderr
    three_parts(done.stderr)
    assert not [p for p in (world.folder / "hf").rglob("*") if p.is_file() and "safetensors" in p.name]
    assert not list((world.folder / "hf").rglob("*.incomplete"))


def test_flipped_byte_is_refused_and_forgotten(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "flip", times=1))
    done = world.pull()
    assert done.returncode == 4
    assert "sha256" in done.stderr and hashlib.sha256(world.weights()).hexdigest() in done.stderr
    three_parts(done.stderr)
    assert world.run("zoo", "path", "tiny-gan").returncode == 4
    assert world.pull().returncode == 0


def test_byte_flipped_in_the_cache_is_seen_and_fetched_again(world: World) -> None:
    world.zoo_of(world.publish())
    assert world.pull().returncode == 0
    file = Path(world.run("zoo", "path", "tiny-gan").stdout.strip()).resolve()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    offline = world.pull(HF_HUB_OFFLINE="1")
    assert offline.returncode == 4 and "sha256" in offline.stderr
    assert world.run("zoo", "verify", "tiny-gan").returncode == 4
    again = world.pull()
    assert again.returncode == 0 and "damaged" in again.stderr
    assert file.read_bytes() == world.weights()


def test_hub_that_is_none(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "nohub"))
    done = world.pull()
    assert done.returncode == 4 and "does not answer like a Hub" in done.stderr


def test_nobody_listens(world: World) -> None:
    world.zoo_of(world.publish())
    done = world.pull(HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4 and "cannot reach 127.0.0.1" in done.stderr
    three_parts(done.stderr)


def test_server_that_never_answers(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "hang"))
    start = time.monotonic()
    done = world.pull(HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert done.returncode == 4 and "no answer" in done.stderr
    assert time.monotonic() - start < 90


def test_proxies_are_respected(world: World) -> None:
    world.zoo_of(world.publish())
    # The small Hub stands in as the proxy of a host that exists nowhere.
    done = world.pull(HF_ENDPOINT="http://hub.invalid", http_proxy=world.hub.url)
    assert done.returncode == 0, done.stderr


def test_eight_processes_at_once(world: World) -> None:
    # Large enough that they meet in the middle of it.
    big = bytes(range(256)) * (8 << 12)
    world.zoo_of(world.hub.add("org/tiny", {"G.safetensors": big}), data=big)
    started = [world.start("zoo", "pull", "tiny-gan", "-q") for _ in range(8)]
    ended = [(p.communicate(timeout=120), p.returncode) for p in started]
    assert [code for _, code in ended] == [0] * 8, ended
    (out,) = {out for (out, _), _ in ended}
    assert (Path(out.strip()) / "G.safetensors").read_bytes() == big
    kept = [p for p in (world.folder / "hf").rglob("*") if p.is_file() and not p.is_symlink()]
    assert [p.stat().st_size for p in kept if p.stat().st_size > 1000] == [len(big)], kept
    assert not [p for p in kept if p.name.endswith(".incomplete")]


def test_full_disk(world: World) -> None:
    big = bytes(4 << 20)
    world.zoo_of(world.hub.add("org/tiny", {"G.safetensors": big}), data=big)
    done = world.on_small_disk("zoo", "pull", "tiny-gan")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr or "File too large" in done.stderr
    three_parts(done.stderr)
    assert not [p for p in (world.folder / "disk").rglob("*") if p.is_file() and p.stat().st_size > 1000]


def test_signed_addresses_and_tokens_are_never_shown(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults += [Fault("/resolve/", "redirect"), Fault("/upstream/", "403", times=1)]
    done = world.pull(HF_TOKEN=TOKEN)
    assert done.returncode == 4 and "forbidden (403)" in done.stderr
    # run() looks for the signature and the token in everything that is printed.
    again = world.run("zoo", "pull", "tiny-gan", "-v", HF_TOKEN=TOKEN)
    assert again.returncode == 0, again.stderr
    assert world.run("zoo", "path", "tiny-gan").returncode == 0
    # The token goes to the Hub, and not on to the store.
    for headers, (_, path) in zip(world.hub.headers, world.hub.requests, strict=True):
        assert headers.get("authorization") == (f"Bearer {TOKEN}" if "/resolve/" in path else None)


def test_progress_in_plain_lines(world: World) -> None:
    big = bytes(30 << 20)
    world.zoo_of(world.hub.add("org/tiny", {"G.safetensors": big}), data=big)
    lines = world.pull().stderr.splitlines()
    assert lines == [f"pull tiny-gan: {n << 20}/{30 << 20} ({p} %)" for n, p in ((10, 33), (20, 66), (30, 100))]
    world.run("zoo", "rm", "tiny-gan", "--yes")
    assert world.run("zoo", "pull", "tiny-gan", "--no-progress").stderr == ""


def test_ctrl_c_while_waiting(world: World) -> None:
    world.zoo_of(world.publish())
    world.hub.faults.append(Fault("/resolve/", "hang"))
    process = world.start("zoo", "pull", "tiny-gan", "--json")
    while not world.hub.requests:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    three_parts(err)
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert not list((world.folder / "hf").rglob("*.incomplete"))


def test_org_repo_of_anyone(world: World) -> None:
    commit = world.publish("someone/gan")
    world.zoo("{}")
    done = world.run("zoo", "pull", "someone/gan", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == commit
    pinned = world.run("zoo", "pull", f"someone/gan@{commit}", "--offline", "--json")
    assert json.loads(pinned.stdout)["revision"] == commit
    # A branch needs a request; without a network the last known commit does, and is said to.
    away = world.run("zoo", "pull", "someone/gan", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert away.returncode == 0 and "using the cached copy" in away.stderr
    assert world.run("zoo", "pull", "someone/gan", "--offline").returncode == 0
    assert world.run("zoo", "pull", "someone/else", "--offline").returncode == 4


def test_repository_that_is_no_bundle(world: World) -> None:
    world.hub.add("someone/bert", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    world.zoo("{}")
    done = world.run("zoo", "pull", "someone/bert")
    assert done.returncode == 4 and "no ganctl bundle" in done.stderr
    assert world.hub.gets(".bin") == 0


def test_repository_whose_model_json_points_elsewhere(world: World) -> None:
    card = json.loads((world.bundle / "model.json").read_text())
    card["nets"] = {"G": "../../../../secret.safetensors"}
    world.hub.add("someone/bad", {"model.json": json.dumps(card).encode()})
    world.zoo("{}")
    done = world.run("zoo", "pull", "someone/bad")
    assert done.returncode == 4 and "not a plain .safetensors" in done.stderr
    assert world.hub.gets("secret") == 0


def test_several_names_go_on_after_a_failure(world: World) -> None:
    text = world.zoo_of(world.publish()).read_text()
    world.zoo(text + text.replace("tiny-gan", "lost-gan").replace("org/tiny", "org/lost"))
    done = world.run("zoo", "pull", "lost-gan", "tiny-gan", "--json")
    assert done.returncode == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r.get("status") for r in rows[:2]] == ["failed", "pulled"]
    assert rows[-1]["error"]["kind"] == "partial"
