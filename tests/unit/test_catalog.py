"""zoo.yaml: what ships is right, and what is wrong in a zoo is told at once, with its line."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from ganctl import catalog
from ganctl.errors import UsageError
from tests.conftest import ROOT, shared

COMMIT, SHA = "0123456789abcdef" * 2 + "01234567", "0123456789abcdef" * 4
GOOD = f"""
gan-one:
  model: dcgan
  config: {{resolution: 16}}
  weights:
    builtin: gan-one
    sha256: '{SHA}'
    hub: {{repo: org/name, revision: '{COMMIT}', file: G_ema.safetensors, sha256: '{SHA}', bytes: 12}}
  card: {{task: sample, license: MIT, metrics: {{fid50k_full: 12.5}}, trunc: 1, classes: 10, noncommercial: true}}
gan-two:
  model: gan
  weights:
    upstream: {{url: 'https://host.org/a/b/x-6726825d.pth?raw=1', sha256: 6726825d, format: torch-checkpoint, net: a.b}}
  card: {{task: translate, license: other}}
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`zoo(text)` makes that text the zoo."""
    path = tmp_path / "other.yaml"
    monkeypatch.setenv("GANCTL_ZOO", str(path))
    count = iter(range(100))

    def write(text: str) -> Path:
        path.write_text(text)
        # Two writes within one tick of the clock are still two zoos.
        import os

        os.utime(path, ns=(0, next(count) * 10**9))
        return path

    return write


def faults(zoo, text: str) -> list[str]:
    zoo(text)
    with pytest.raises(UsageError) as e:
        catalog.entries()
    assert e.value.what.startswith("cannot use zoo '") and e.value.hint
    return e.value.why.split("\n")


def test_a_good_zoo(zoo) -> None:
    zoo(GOOD)
    one, two = catalog.entries().values()
    assert one == catalog.entry("gan-one") and one.task == "sample" and one.config == {"resolution": 16}
    assert one.builtin == "gan-one" and one.builtin_sha256 == SHA
    assert one.hub == catalog.HubFile("org/name", COMMIT, "G_ema.safetensors", SHA, 12, "G_ema")
    assert one.card["metrics"] == {"fid50k_full": 12.5}
    assert two.upstream is not None and two.upstream.net == "a.b" and two.hub is None and not two.builtin
    assert catalog.names() == ["gan-one", "gan-two"] and catalog.names("translate") == ["gan-two"]
    zoo("{}")
    assert catalog.entries() == {}
    zoo("")
    assert catalog.entries() == {}


def test_every_fault_is_listed_with_its_line(zoo) -> None:
    text = """\
Org/Name.pkl:
  model: 3
  weights: {builtin: ../x}
  card: {task: smple, license: '', paper: 1511.06434, noncommercial: 'no', classes: 0, metrics: {fid: .nan}}
b:
  model: dcgan
  wieghts: {}
  card: {task: sample, license: MIT, trained_on: 2020-01-01, resolution: 64px}
a:
  model: dcgan
  weights: {hub: {repo: name, revision: 0a1b2c3, file: sub/G.safetensors, sha256: 1234, bytes: -1, colour: red}}
  card: {task: sample, license: MIT}
b:
  model: dcgan
"""
    assert faults(zoo, text) == [
        "line 1: the name 'Org/Name.pkl' must be lower case letters, digits and -",
        "line 2: 'Org/Name.pkl.model' must be text, not a whole number '3': put it in quotes",
        "line 3: 'Org/Name.pkl.weights.builtin' must be a name of lower case letters, digits and -, not '../x'",
        "line 4: 'Org/Name.pkl.card.license' is empty",
        "line 4: 'Org/Name.pkl.card.paper' must be text, not a number: put it in quotes",
        "line 4: 'Org/Name.pkl.card.noncommercial' must be true or false, not text",
        "line 4: 'Org/Name.pkl.card.classes' must be 1 or more, not 0",
        "line 4: unknown task 'smple'; known: sample, translate, classify, features",
        "line 4: metrics has 'fid', which must be a finite number, not 'nan'",
        "line 5: 'b' lacks 'weights'",
        "line 7: 'b' has the unknown key 'wieghts' (did you mean weights?)",
        "line 8: 'b.card.trained_on' must be text, not a date: put it in quotes",
        "line 8: 'b.card.resolution' must be a whole number, not text",
        "line 11: 'a.weights.hub' has the unknown key 'colour' (known: repo, revision, file, sha256, bytes, net)",
        "line 11: 'a.weights.hub.repo' must be a Hub repository org/name, not 'name'",
        "line 11: 'a.weights.hub.revision' must be a full commit of 40 hex digits (0-9a-f), not '0a1b2c3'",
        "line 11: 'a.weights.hub.file' must be a .safetensors file name without folders, not 'sub/G.safetensors'",
        "line 11: 'a.weights.hub.sha256' must be text, not a whole number '1234': put it in quotes",
        "line 11: 'a.weights.hub.bytes' must be a positive number of bytes, not '-1'",
        "line 13: duplicate key 'b', first on line 5",
    ]


ONE_FAULT = {
    "hub: {repo: org/name": ("hub: {repo: org/na--me", "must not contain --"),
    f"'{COMMIT}'": (f"'{COMMIT.upper()}'", "must be a full commit of 40 hex digits"),
    f"sha256: '{SHA}', bytes": ("sha256: '0123abcd', bytes", "must be a full sha256 of 64 hex digits"),
    "file: G_ema.safetensors": ("file: G_ema.pth", "must be a .safetensors file name without folders"),
    "bytes: 12": ("bytes: '12'", "must be a positive number of bytes"),
    "builtin: gan-one": ("builtin: Gan One", "must be a name of lower case letters"),
    "resolution: 16": ("resolution: .inf", "is not a finite number"),
    "sha256: 6726825d": ("sha256: 67268a", "at least 7 hex digits"),
    "sha256: 6726825d,": ("sha256: 67268250,", "put it in quotes"),
    "format: torch-checkpoint": ("format: pickle", "unknown format 'pickle'; known: torch-state-dict"),
    "https://host.org/a/b/x-6726825d.pth?raw=1": ("http://host.org/x.pth", "must begin with https://"),
    "https://host.org/a/b/x-6726825d.pth?raw": ("https://me:pw@host.org/x.pth?raw", "must not hold a user name"),
    "https://host.org/a/b/x-6726825d.pth?raw=1'": ("https://host.org/'", "names no file"),
    "https://host.org/a/b": ("https:///", "is no address"),
    "net: a.b": ("net: a/b", "must be the name of a network"),
    "task: translate": ("task: invert", "unknown task 'invert'"),
    "license: other": ("license: 2", "must be text"),
    "trunc: 1": ("trunc: '1'", "must be a number"),
    "fid50k_full: 12.5": ("fid50k_full: good", "must be a finite number"),
}


@pytest.mark.parametrize("part", ONE_FAULT)
def test_one_fault(zoo, part: str) -> None:
    bad, text = ONE_FAULT[part]
    assert GOOD.count(part) == 1
    (fault,) = faults(zoo, GOOD.replace(part, bad))
    assert text in fault and fault.startswith("line "), fault
    assert "pw" not in fault


def test_other_shapes(zoo) -> None:
    assert faults(zoo, "- a\n- b\n") == ["line 1: it is not a mapping of names to entries"]
    assert faults(zoo, "a: 3\nb: null\n") == [
        "line 1: 'a' must be a mapping, not a whole number",
        "line 2: 'b' must be a mapping, not nothing",
    ]
    shape = "a:\n  model: gan\n  weights: {}\n  config: []\n  card: []\n"
    assert faults(zoo, shape) == [
        "line 3: 'a.weights' names none of builtin, hub, upstream",
        "line 4: 'a.config' must be a mapping, not a list",
        "line 5: 'a.card' must be a mapping, not a list",
    ]
    many = "".join(f"a{i}: 1\n" for i in range(300))
    assert len(faults(zoo, many)) == catalog.MAX_FAULTS + 1 and faults(zoo, many)[-1] == "and 200 more"
    assert "\x1b" not in "".join(faults(zoo, '"evil\\e[31m": 1'))


def test_a_zoo_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANCTL_ZOO", str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError) as e:
        catalog.entries()
    assert "none.yaml" in e.value.what and e.value.why == "No such file or directory" and "GANCTL_ZOO" in e.value.hint
    monkeypatch.setenv("GANCTL_ZOO", "~/zoo.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.zoo_path() == tmp_path / "zoo.yaml"
    monkeypatch.delenv("GANCTL_ZOO")
    assert catalog.zoo_path() == ROOT / "zoo.yaml"


def test_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANCTL_ZOO", raising=False)
    from ganctl.load import model_names
    from ganctl.workflows.sample import DEFAULT_MODEL
    from ganctl.workflows.zoo import local_bundle

    entries = catalog.entries()
    tasks = {e.name: e.task for e in entries.values() if e.builtin}
    assert (
        tasks.items()
        >= {
            "dcgan-fashion-mnist": "sample",
            "dcgan-mnist": "sample",
            "pix2pix-emoji": "translate",
            "esrgan-emoji": "translate",
            "lenet-mnist": "classify",
            "lenet-fashion-mnist": "classify",
        }.items()
    )
    assert tasks[DEFAULT_MODEL] == "sample"
    for e in entries.values():
        assert e.model in model_names() or e.task == "features"
        assert e.card["license"] and "noncommercial" in e.card
        bundle = local_bundle(e)
        if bundle or not e.builtin:
            assert {**(bundle.card if bundle else {}), **e.card}["trained_on"]
    inception = entries["inception-2015-12-05"]
    assert inception.task == "features" and inception.upstream is not None
    assert inception.card["license"] == "Apache-2.0" and inception.card["noncommercial"] is False


@pytest.mark.parametrize(
    ("name", "theirs", "licence"),
    [
        ("inception-2015-12-05", "fid-inception-pytorch-fid", "apache-2.0-inception"),
        ("alexnet-imagenet", "alexnet-imagenet", "torchvision-weights"),
        ("vgg16-imagenet", "vgg16-imagenet", "torchvision-weights"),
        ("squeezenet1-1-imagenet", "squeezenet1-1-imagenet", "torchvision-weights"),
    ],
)
def test_feature_networks_are_the_catalogues(name: str, theirs: str, licence: str) -> None:
    text = shared("zoo-catalogue.yaml").read_text()
    facts = text[text.index(f"- id: {theirs}\n") :].partition("\n\n")[0]
    upstream = catalog.entries()[name].upstream
    assert upstream is not None
    assert f"upstream: {upstream.url}\n" in facts and f"value: {upstream.sha256}\n" in facts
    assert f"size_bytes: {upstream.bytes}\n" in facts or "size_bytes" not in facts
    assert f"format: {upstream.format}\n" in facts and f"licence: {licence}\n" in facts


def test_published_samplers_are_the_catalogues() -> None:
    """Every hash was published, and for that file; one that was is not left out; no licence is made more liberal."""
    facts = shared("zoo-catalogue.yaml").read_text().split("\n- id: ")
    found = [e for e in catalog.entries().values() if e.upstream and e.task == "sample"]
    assert {"stylegan2-ffhq", "stylegan2-ada-metfaces", "r3gan-ffhq"} <= {e.name for e in found}
    for e in found:
        assert e.upstream is not None
        url = re.fullmatch(r"https://huggingface.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(e.upstream.url))
        git = re.fullmatch(r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([^/]+)/(.+)", e.upstream.url)
        address = f"git:{git[1]}@{git[2]}:{git[3]}" if git else e.upstream.url
        parts = [f"repo: {url[1]}\n", f"file: {url[3]}\n"] if url else [f"{address}\n"]
        pinned = re.compile(rf"(value|prefix|sha256): '?{e.upstream.sha256}" if e.upstream.sha256 else "")
        (about,) = [f for f in facts if all(part in f for part in parts) and pinned.search(f)][:1]
        if not e.upstream.sha256:
            # git's hash of a file says as much as its commit does.
            assert "algorithm: sha256" not in about and " sha256: " not in about, e.name
            # The car's catalogue says 512 × 384; the grey images' side stands in their publisher's readme.
            told = e.name in ("stylegan-car", "dcgan-cifar100-grey-csinva")
            assert told or f"  resolution: {e.config['resolution']}\n" in about
        assert not url or url[2] == "main" or f"revision: {url[2]}" in about, e.name
        assert not e.upstream.bytes or f"size_bytes: {e.upstream.bytes}" in about, e.name
        for key, number in e.card.get("metrics", {}).items():
            assert re.search(rf"{key}: (about )?{number}\b", about) or e.upstream.sha256, (e.name, key)
        if e.card["license"] in ("NVIDIA-NC", "unknown") or "non_commercial: true" in about:
            assert e.card["noncommercial"] is True, e.name
        assert e.card["paper"].startswith("arXiv:")


def test_the_licence_of_the_lpips_heads_travels_with_them() -> None:
    """BSD-2-Clause asks for its notice in every copy, a wheel's too."""
    from ganctl.load import builtin_path

    heads = [e for e in catalog.entries().values() if e.model == "lpips"]
    assert [e.name for e in heads] == ["lpips-alex", "lpips-vgg", "lpips-squeeze"]
    for e in heads:
        notice = (builtin_path(e) / "LICENSE").read_text()
        assert notice.startswith(f"Copyright (c) 2018, {e.card['authors']}\n") and "binary form" in notice
        assert e.card["license"] == "BSD-2-Clause"


def test_built_in_models_are_pinned() -> None:
    """Each bundle inside the package has its sha256 and its checks in zoo.yaml: `ganctl zoo verify NAME --json`."""
    from ganctl.workflows.zoo import VerifyRequest, local_bundle, verify

    here = [e.name for e in catalog.entries().values() if e.builtin and local_bundle(e)]
    assert {"lenet-mnist", "lenet-fashion-mnist"} <= set(here)
    for result in verify(VerifyRequest(names=tuple(here))):
        assert result["status"] == "ok", result
        assert result["pinned"], f"{result['name']} needs  weights: {{…, sha256: {result['sha256']}}}"
        # Feature weights belong to no family: there is no picture to check, only their bytes.
        wanted = [] if catalog.entry(result["name"]).task == "features" else ["mean", "std"]
        assert result["checked"] == wanted, f"{result['name']} needs  checks: {result['checks']}"


def refusal(ref: str) -> UsageError:
    with pytest.raises(UsageError) as e:
        catalog.check_name(ref)
    assert e.value.why and e.value.hint
    return e.value


def test_names_that_cannot_be_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone.safetensors").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "old.pth").write_text("x")
    assert refusal("dcgan-mnits").hint == "did you mean dcgan-mnist? see: ganctl zoo list"
    assert "no such file or folder" in refusal("nothing").why
    for ref in ("./dcgan-mnist", "/no/such", "~/no-such", "a/b/c", "x.safetensors"):
        assert refusal(ref).what == f"no such model '{ref}'"
    for ref in ("x.pkl", "old.pth", "a/b.pt", "m.ckpt", "w.bin", "X.PKL", "t.tar"):
        assert refusal(ref).hint == f"ganctl convert {ref} -o BUNDLE/"
    assert "no model.json and no snapshots" in refusal("empty").why
    for ref in ("alone.safetensors", "notes.txt"):
        assert "no .safetensors file with a model.json" in refusal(ref).why
    for ref in ("org/na--me", "org/..", "-/x", "org/name@../x", "org/name@a b", "org/name@x\x1b"):
        assert refusal(ref).what.startswith("cannot use '")
    assert refusal("https://huggingface.co/org/name").why == "it is an address"
    for ref in ("", "  ", "a\0b", "x" * 5000):
        refusal(ref)
    for ref in (
        "dcgan-mnist",
        "dcgan-mnist@abc1234",
        "org/name",
        "org/name@main",
        f"org/name@{COMMIT}",
        "org/n@v1.0/x",
    ):
        catalog.check_name(ref)
    # A file of an entry's name is reached by its path only.
    (tmp_path / "dcgan-mnist").mkdir()
    catalog.check_name("dcgan-mnist")
    assert "no model.json" in refusal("./dcgan-mnist").why


def test_reading_the_zoo_loads_nothing_heavy() -> None:
    import subprocess

    script = "import sys, ganctl.catalog as c; c.entries(); print({'torch', 'numpy', 'pydantic'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_completion_reads_the_same_names_by_lines_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = catalog.entries()
    assert catalog.names() == list(whole)
    for task in catalog.TASKS:
        assert catalog.names(task) == [name for name, entry in whole.items() if entry.task == task]
    monkeypatch.setenv("GANCTL_ZOO", str(tmp_path / "none.yaml"))
    assert catalog.names() == []


def test_published_translators_are_the_catalogues() -> None:
    """The authors' addresses, over https; no hash is given where none was published. OpenMMLab's say theirs."""
    facts = shared("zoo-catalogue.yaml").read_text()
    families = ("cyclegan", "pix2pix", "srgan", "esrgan")
    every = [e for e in catalog.entries().values() if e.upstream and e.model in families]
    theirs = [e for e in every if e.name.endswith("-openmmlab")]
    assert len(theirs) == 16
    for e in theirs:
        about = facts[facts.index(f"- id: {e.name}\n") :].partition("\n\n")[0]
        assert e.upstream is not None and f"upstream: {e.upstream.url}\n" in about
        assert re.search(f"    prefix: '?{e.upstream.sha256}'?\n", about)
        assert e.upstream.url.endswith(f"-{e.upstream.sha256}.pth")
        assert "licence: apache-2.0-openmmlab\n" in about and e.card["license"] == "Apache-2.0"
        scores = re.findall(r"^ {4,6}\S*(?:fid|is|psnr|ssim): (\S+)$", about, re.M)
        assert set(map(str, e.card["metrics"].values())) == set(scores)
    found = [e for e in every if e not in theirs and e.card["license"] == "BSD-2-Clause"]
    compressed = [e for e in found if e.name.endswith("-gancompression")]
    for e in compressed:
        about = facts[facts.index(f"- id: {e.name}-full\n") :].partition("\n\n")[0]
        assert e.upstream is not None and f"upstream: {e.upstream.url}\n" in about and not e.upstream.sha256
        assert "licence: bsd-gan-compression\n" in about and "grade: B" in about
    found = [e for e in found if e not in compressed]
    assert (len(found), len(compressed)) >= (23, 4)
    for e in found:
        assert e.upstream is not None
        about = facts[facts.index(f"- id: {e.name}\n") :].partition("\n\n")[0]
        assert f"upstream: {e.upstream.url.replace('https:', 'http:')}\n" in about and e.upstream.sha256 == ""
        assert "  hash:" not in about and "licence: bsd-cyclegan\n" in about and "non_commercial: false" in about
        assert (e.task, e.card["license"], e.card["noncommercial"]) == ("translate", "BSD-2-Clause", False)
        assert f"  dataset: {e.card['trained_on']}\n" in about
