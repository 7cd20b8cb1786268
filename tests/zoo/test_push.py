"""`zoo push`: a bundle and its written card go to a Hub, and come back as a model anyone can use."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from tests.zoo.conftest import CONFIG, TOKEN, World
from tests.zoo.hubserver import Fault
from tests.zoo.test_pull import three_parts


@pytest.fixture
def pushing(world: World) -> World:
    """A Hub that wants a token, a user who has it, and a bundle with everything a card can tell."""
    world.hub.token = TOKEN
    world.env["HF_TOKEN"] = TOKEN
    world.zoo("{}")
    shutil.copytree(world.bundle, world.folder / "mine")
    return world


def edit_card(world: World, **card: object) -> None:
    path = world.folder / "mine" / "model.json"
    data = json.loads(path.read_text())
    data["card"] = card
    path.write_text(json.dumps(data))


def parsed(readme: bytes, folder: Path) -> ModelCard:
    """The card, by the Hub's own reader."""
    path = folder / "card.md"
    path.write_bytes(readme)
    return ModelCard.load(path)


def read_without_ganctl(world: World, text: str) -> str:
    """What the card's own program prints, in an interpreter that cannot import ganctl."""
    (program,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    assert "hf_hub_download" in program
    command = [sys.executable, "-c", f"import sys\nsys.modules['ganctl'] = None\n{program}"]
    done = subprocess.run(command, env=world.env, cwd=world.folder, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip()


def test_push_and_back(pushing: World) -> None:
    edit_card(
        pushing,
        license="Apache-2.0",
        trained_on="Fashion | <MNIST>",
        paper="arXiv:1511.06434",
        recipe="tiny",
        kimg=12.0,
        metrics={"fid5k": 31.25},
    )
    dry = pushing.run("zoo", "push", "mine", "me/tiny", "--dry-run")
    assert dry.returncode == 0 and pushing.hub.requests == []
    done = pushing.run("zoo", "push", "mine", "me/tiny", "--private", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    repo = pushing.hub.repos["me/tiny"]
    assert repo.private and result["url"] == f"{pushing.hub.url}/me/tiny"
    ((commit, files),) = repo.commits
    assert result["revision"] == commit and result["files"] == sorted(files)
    assert set(files) == {"G.safetensors", "README.md", "model.json", "samples.png"}
    assert files["G.safetensors"] == pushing.weights()
    assert Image.open(io.BytesIO(files["samples.png"])).size == (8 * 18 - 2, 4 * 18 - 2)
    card = parsed(files["README.md"], pushing.folder)
    assert card.data.license == "apache-2.0" and card.data.library_name == "ganctl"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert card.data.tags == ["ganctl", "gan", "dcgan", "sample"]
    for text in (
        "ganctl sample me/tiny",
        r"Fashion \| &lt;MNIST>",
        "arXiv:1511.06434",
        "| fid5k | 31.25 |",
        "z_dim: 8",
    ):
        assert text in card.text, text
    assert json.loads(files["model.json"])["card"]["task"] == "sample"
    (score,) = card.data.eval_results or []
    assert (score.metric_type, score.metric_value, score.dataset_name) == ("fid5k", 31.25, "Fashion | <MNIST>")
    assert score.task_type == card.data.pipeline_tag and score.metric_name == "fid5k (published)"
    count = len(load_file(pushing.bundle / "G.safetensors"))
    assert read_without_ganctl(pushing, card.text) == f"{json.loads(files['model.json'])['config']} {{'G': {count}}}"
    # The printed `hub` is what zoo.yaml needs.
    hub = result["hub"]
    assert hub["revision"] == commit and hub["file"] == "G.safetensors" and hub["bytes"] == len(pushing.weights())
    pushing.zoo(
        f"back:\n  model: dcgan\n  config: {json.dumps(CONFIG)}\n  weights:\n    hub: {json.dumps(hub)}\n"
        "  card: {task: sample, license: Apache-2.0}\n"
    )
    assert pushing.run("zoo", "pull", "back", "me/tiny").returncode == 0
    # Pushed again: one more commit, the same files.
    assert pushing.run("zoo", "push", "mine", "me/tiny", "-q").stdout == f"{pushing.hub.url}/me/tiny\n"
    assert len(repo.commits) == 2 and repo.commits[1][1].keys() == files.keys()


def test_the_licence_must_be_known(pushing: World) -> None:
    for licence in ("", "unknown", "other"):
        edit_card(pushing, **({"license": licence} if licence else {}))
        done = pushing.run("zoo", "push", "mine", "me/tiny")
        assert done.returncode == 2 and "its licence is unknown" in done.stderr
        three_parts(done.stderr)
    assert pushing.hub.requests == []
    done = pushing.run("zoo", "push", "mine", "me/tiny", "--license", "Our House Licence 2")
    assert done.returncode == 0, done.stderr
    card = parsed(pushing.hub.repos["me/tiny"].commits[0][1]["README.md"], pushing.folder)
    assert card.data.license == "other" and card.data.license_name == "our-house-licence-2"
    assert "| licence | Our House Licence 2 |" in card.text


@pytest.mark.parametrize(
    ("license", "url", "expected"),
    [
        ("CC-BY-4.0", "", {"license": "cc-by-4.0"}),
        ("House-NC", "https://host/terms", {"license_name": "house-nc", "license_link": "https://host/terms"}),
        ('odd: "licence"\n---\n# x', "", {"license": "other", "license_name": "odd-licence-x"}),
    ],
)
def test_cards_are_read_by_the_hubs_own_reader(world: World, license: str, url: str, expected: dict) -> None:
    from ganctl.io.bundle import read_bundle
    from ganctl.workflows.push import PIPELINES, model_card

    for task, pipeline in PIPELINES.items():
        facts = {"license": license, "license_url": url, "task": task, "noncommercial": True}
        facts["notes"] = "a\nb\x1b[31m ``` | <b>"
        text = model_card("me/tiny", read_bundle(world.bundle), facts, sheet=False)
        card = parsed(text.encode(), world.folder)
        found = card.data.to_dict()
        assert {k: found.get(k) for k in expected} == expected
        assert found["pipeline_tag"] == pipeline and task in found["tags"]
        assert "\x1b" not in text and "| use | non-commercial only |" in card.text and "samples.png" not in text


def test_refusals(pushing: World) -> None:
    no_token = pushing.run("zoo", "push", "mine", "me/tiny", HF_TOKEN="")
    assert no_token.returncode == 4 and "no Hub token is set" in no_token.stderr and "HF_TOKEN" in no_token.stderr
    offline = pushing.run("zoo", "push", "mine", "me/tiny", "--offline")
    assert offline.returncode == 4 and "forbids requests" in offline.stderr
    assert pushing.hub.requests == []
    for repo in ("tiny", "a/b/c", "me/ti--ny", "me/..", "me/a b"):
        done = pushing.run("zoo", "push", "mine", repo)
        assert done.returncode == 2 and "give it as org/name" in done.stderr
    wrong = pushing.run("zoo", "push", "mine", "me/tiny", HF_TOKEN="hf_" + "wrongwrongwrong")
    assert wrong.returncode == 4 and "wrongwrong" not in wrong.stderr
    three_parts(wrong.stderr)
    pushing.hub.faults.append(Fault("/commit/", "403"))
    forbidden = pushing.run("zoo", "push", "mine", "me/tiny")
    assert forbidden.returncode == 4 and "forbidden (403)" in forbidden.stderr
    three_parts(forbidden.stderr)


def test_damaged_weights_are_never_pushed(pushing: World) -> None:
    file = pushing.folder / "mine" / "G.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    done = pushing.run("zoo", "push", "mine", "me/tiny")
    assert done.returncode == 4 and "NaN or infinity" in done.stderr
    assert pushing.hub.repos == {}


def test_a_busy_hub_is_waited_for(pushing: World) -> None:
    pushing.hub.faults.append(Fault("/commit/", "429", times=1, headers={"Retry-After": "1"}))
    done = pushing.run("zoo", "push", "mine", "me/tiny")
    assert done.returncode == 0, done.stderr
    assert "waiting 1 s" in done.stderr and len(pushing.hub.repos["me/tiny"].commits) == 1
