"""`zoo push`: a bundle, with a written model card and a sheet of samples, to a repository on the Hub."""

import json
import re
from pathlib import Path
from typing import Any

from ganctl import __version__, catalog
from ganctl.config import config, write_yaml
from ganctl.errors import UsageError, printable, quoted
from ganctl.io.bundle import FORMAT_VERSION, Bundle
from ganctl.io.hub import check_upload, file_digest, upload
from ganctl.io.progress import SILENT, Reporter

PIPELINES = {
    "sample": "unconditional-image-generation",
    "translate": "image-to-image",
    "classify": "image-classification",
    "features": "image-feature-extraction",
}
HUB_LICENSES = (
    *("apache-2.0", "mit", "isc", "zlib", "unlicense", "bsd-2-clause", "bsd-3-clause", "artistic-2.0", "mpl-2.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail", "creativeml-openrail-m"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
)
"""Identifiers the Hub knows; another licence is named in words."""
OF_TRAINING_DATA = re.compile(r"(fid|kid|is|pr|ppl)\d")
"""How scores begin that are held against a network's own training data: fid50k_full, kid50k_full …"""
SHEET = (8, 4)
WITHOUT = """\
import json
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

about = json.load(open(hf_hub_download("{repo}", "model.json"), encoding="utf-8"))
nets = {{name: load_file(hf_hub_download("{repo}", file)) for name, file in about["nets"].items()}}
print(about["config"], {{name: len(tensors) for name, tensors in nets.items()}})"""
"""What a card says to those who have no ganctl; the tests run it."""


@config
class PushRequest:
    run: str
    """A run, a bundle, or a zoo name."""
    repo: str
    private: bool = False
    license: str = ""
    """Overrides the card's; needed where the card has none."""


def check(request: PushRequest) -> None:
    """What can be refused before anything is read or asked."""
    catalog.check_name(request.run)
    if not catalog.REPO.fullmatch(request.repo) or ".." in request.repo or "--" in request.repo:
        raise UsageError(
            f"cannot push to {quoted(request.repo)}", "it is no name of a Hub repository", "give it as org/name"
        )
    if request.license and (len(request.license) > 100 or not request.license.isprintable()):
        raise UsageError(
            f"cannot use --license {quoted(request.license[:100])}",
            "it is no licence's name",
            "for example --license apache-2.0",
        )
    check_upload(request.repo)


def push(request: PushRequest, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Uploads model.json, the networks, README.md and samples.png in one commit.

    Raises UsageError for an unknown licence, WeightsError for damaged weights or a refusal by the Hub.
    """
    check(request)
    from ganctl.load import best_net, open_bundle, weight_file

    bundle, _ = open_bundle(request.run, reporter=reporter)
    card = _licensed(bundle, request)
    files: dict[str, Path | bytes] = {}
    for net in bundle.nets:
        bundle.state(net)
        files[bundle.nets[net]] = weight_file(bundle, net)
    sheet, card["task"] = _samples(bundle, card.get("task", ""))
    if sheet:
        files["samples.png"] = sheet
    files["model.json"] = _model_json(bundle, card)
    files["README.md"] = model_card(request.repo, bundle, card, sheet=bool(sheet)).encode()
    commit = upload(
        request.repo,
        files,
        private=request.private,
        message=f"{bundle.model}, by ganctl {__version__}",
        reporter=reporter,
    )
    from huggingface_hub import constants

    best = best_net(bundle)
    pin = {
        "repo": request.repo,
        "revision": commit,
        "file": bundle.nets[best],
        "sha256": file_digest(weight_file(bundle, best)),
        "bytes": weight_file(bundle, best).stat().st_size,
    }
    result = {
        "url": f"{constants.ENDPOINT}/{request.repo}",
        "repo": request.repo,
        "revision": commit,
        "private": request.private,
        "files": sorted(files),
        "hub": pin,
    }
    reporter.result(result)
    return result


def _licensed(bundle: Bundle, request: PushRequest) -> dict[str, Any]:
    licence = request.license or str(bundle.card.get("license") or "")
    if licence.lower() in ("", "unknown", "other", "none"):
        raise UsageError(
            f"cannot push {quoted(request.run)}",
            "its licence is unknown, and others must know what they may do with it",
            "name it: --license apache-2.0",
        )
    return {**bundle.card, "license": licence}


def _samples(bundle: Bundle, task: str) -> tuple[bytes | None, str]:
    """A sheet of seeds 0-31 as PNG bytes, for samplers, and the task as the network itself tells it."""
    import torch

    from ganctl.io.images import encode, grid, to_pixels
    from ganctl.load import best_net, model_names, network
    from ganctl.nn.drawing import of_seeds
    from ganctl.protocols import Classifier, Sampler, Translator

    if bundle.model not in model_names():
        return None, task or "features"
    net = network(bundle, best_net(bundle))
    if isinstance(net, Sampler):
        columns, rows = SHEET
        with torch.inference_mode():
            images = [of_seeds(net, [seed], torch.device("cpu")) for seed in range(columns * rows)]
        return encode(grid(list(to_pixels(torch.cat(images), net.x.range)), columns)), "sample"
    if isinstance(net, Translator):
        return None, "translate"
    return None, "classify" if isinstance(net, Classifier) else task or "sample"


def _model_json(bundle: Bundle, card: dict[str, Any]) -> bytes:
    data = {
        "format_version": FORMAT_VERSION,
        "ganctl": __version__,
        "model": bundle.model,
        "config": bundle.config,
        "nets": bundle.nets,
        "card": card,
    }
    return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"


def model_card(repo: str, bundle: Bundle, card: dict[str, Any], *, sheet: bool) -> str:
    """The README.md of a repository: the Hub's metadata block, what it is, how to use it, what it was trained on."""
    task = card["task"]
    metadata = _metadata(repo, bundle, card)
    use = {
        "sample": f"ganctl sample {repo} -n 16 -o out/",
        "translate": f"ganctl translate {repo} input.png -o output.png",
    }.get(task, f"ganctl zoo pull {repo}")
    lines = [
        "---",
        write_yaml(metadata).rstrip(),
        "---",
        "",
        f"# {repo.partition('/')[2]}",
        "",
        f"A `{bundle.model}` network for `ganctl` (task: {task}).",
        *(["", "![Seeds 0 to 31, in order](samples.png)"] if sheet else []),
        "",
        "## Use",
        "",
        "```",
        "pip install ganctl",
        use,
        "```",
        "",
        "Without ganctl, as tensors under the names of its modules:",
        "",
        "```python",
        WITHOUT.format(repo=repo),
        "```",
        "",
        "## Facts",
        "",
        "| | |",
        "|---|---|",
        *(f"| {label} | {_cell(value)} |" for label, value in _facts(bundle, card)),
        "",
        "## Configuration",
        "",
        "```yaml",
        write_yaml(bundle.config).rstrip().replace("```", "'''"),
        "```",
        "",
    ]
    return "\n".join(lines)


def _metadata(repo: str, bundle: Bundle, card: dict[str, Any]) -> dict[str, Any]:
    """The block at the head of a card, as the Hub's page on model cards has it."""
    task, licence = card["task"], card["license"]
    known = licence.lower() in HUB_LICENSES
    metadata: dict[str, Any] = {"library_name": "ganctl", "license": licence.lower() if known else "other"}
    if not known:
        # The Hub wants an identifier here; the words themselves are among the facts.
        metadata["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.") or "named-below"
        if card.get("license_url"):
            metadata["license_link"] = card["license_url"]
    metadata |= {"pipeline_tag": PIPELINES[task], "tags": ["ganctl", "gan", bundle.model, task]}
    data = str(card.get("trained_on") or "")
    scores = [
        {"type": name, "value": value, "name": f"{name} ({by})"}
        for by, group in (("published", "metrics"), ("measured with ganctl", "measured"))
        for name, value in (card.get(group) or {}).items()
        if OF_TRAINING_DATA.match(name)
    ]
    if data and scores:
        slug = re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "data"
        result = {
            "task": {"type": PIPELINES[task]},
            "dataset": {"name": printable(data), "type": slug},
            "metrics": scores,
        }
        metadata["model-index"] = [{"name": repo.partition("/")[2], "results": [result]}]
    return metadata


def _facts(bundle: Bundle, card: dict[str, Any]) -> list[tuple[str, Any]]:
    labels = {
        "paper": "paper",
        "authors": "authors",
        "trained_on": "trained on",
        "recipe": "recipe",
        "kimg": "training images (thousands)",
        "source": "source",
        "notes": "notes",
    }
    facts = [("model", bundle.model), ("networks", ", ".join(bundle.nets)), ("licence", card["license"])]
    if card.get("noncommercial"):
        facts.append(("use", "non-commercial only"))
    facts += [(label, card[key]) for key, label in labels.items() if card.get(key) not in (None, "")]
    scores = {**(card.get("metrics") or {}), **(card.get("measured") or {})}
    return [*facts, *((str(name), value) for name, value in scores.items())]


def _cell(value: Any) -> str:
    return printable(value).replace("|", "\\|").replace("<", "&lt;")
