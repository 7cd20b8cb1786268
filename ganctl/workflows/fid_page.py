"""`ganctl fid --report`: one page with the scores and the pictures behind them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ganctl import __version__
from ganctl.errors import quoted
from ganctl.io.files import atomic_write, sha256
from ganctl.io.outputs import shown_name, status_of
from ganctl.metrics.catalog import METRICS, Metric
from ganctl.workflows.fid_measure import Measured, Work
from ganctl.workflows.fid_pictures import STYLE, Shown, drawn_tiles, nearest_section, realism_section
from ganctl.workflows.fid_report import protocol
from ganctl.workflows.fid_sampler import how
from ganctl.workflows.html import document, table, text
from ganctl.workflows.operands import Operand

SHOWN = 24
"""Images of each side, side by side."""
HEADS = "Nearest neighbours: has the generator memorised?", "The most and the least realistic"
MEANING = {
    "fd": "Fréchet distance between the features of the two sides. 0 when they are equal; lower is better.",
    "fid": "Fréchet distance between Inception's features of the two sides. 0 when they are equal; lower is better.",
    "kid": "Kernel distance between the features of the two sides. 0 on average when they are alike, so it may be "
    "slightly negative; lower is better.",
    "is": "Whether each image is clearly of one class, and the classes vary. Real images are not looked at; higher is "
    "better.",
    "precision": "Share of the generated images that lie among real ones: quality. Higher is better.",
    "recall": "Share of the real images that lie among generated ones: variety. Higher is better.",
    "density": "How many real images lie around a generated one, 1 being as many as around a real one. Higher is "
    "better.",
    "coverage": "Share of the real images with a generated one close by: variety. Higher is better.",
    "c2st_log_loss": "Log loss of a classifier that tells real from generated. At 0.693 it only guesses; the lower, "
    "the better it can tell.",
    "c2st_auc": "Area under that classifier's ROC curve. At 0.5 it only guesses; at 1 it can always tell.",
    "eqt": "How exactly the pictures move along when the plane that they are made of is moved, as a ratio to the error "
    "in dB. Higher is better: the paper's networks have about 65.",
    "eqr": "The same when the plane is turned. Higher is better: the paper's R has 40, its T, not made to turn, 13.",
    "ppl": "How much the pictures change over tiny steps between latents. Lower is smoother.",
}
"""What a number's name starts with → a sentence for who sees it first."""

Side = Mapping[str, Measured]
"""Network → what was measured by it."""
Stamps = Sequence[Mapping[str, Any]]
"""The results as they were printed."""


def page_status(work: Work) -> Literal["write", "exists"]:
    """Whether the page is to be written, or is there from the same request. Raises UsageError if it is another's."""
    return status_of(Path(work.request.report or ""), _request(work), work.request.overwrite)


def write_page(work: Work, real: Side, fake: Side, stamps: Stamps) -> Literal["written", "exists"]:
    """Writes the page, unless it is there.

    Raises UsageError (another request's page is there, no permission), GanctlError (disk full).
    """
    if page_status(work) == "exists":
        return "exists"
    titles = _names(work)
    parts = [
        _scores(work, real, fake, stamps),
        _side_by_side(work, real, fake),
        *_comparison(work, real, fake),
        _facts(work, real, fake, stamps),
    ]
    title = " against ".join(titles[side] for side in ("generated", "real") if side in titles)
    data = document(title, parts, style=STYLE, request=_request(work))
    with atomic_write(Path(work.request.report or "")) as f:
        f.write(data)
    return "written"


def _operands(work: Work) -> dict[str, Operand]:
    sides = {"real": work.plan.real, "generated": work.plan.fake}
    return {what: side for what, side in sides.items() if side}


def _names(work: Work) -> dict[str, str]:
    """What the sides are called: no machine's folders, unless the last part of both paths is the same."""
    sides = _operands(work)
    short = {what: shown_name(side.ref) for what, side in sides.items()}
    return short if len({*short.values()}) == len(sides) else {what: side.ref for what, side in sides.items()}


def _request(work: Work) -> dict[str, Any]:
    """What the page depends on; kept inside it."""
    request = work.request
    fixed = ("metrics", "num", "seed", "mode", "dims", "dtype", "mirror", "resolution", "skip_bad")
    numbers = {name: getattr(request, name) for name in (*fixed, "kid_subsets", "kid_subset_size")}
    sides = {what: f"{shown_name(side.ref)} {_identity(work, side)}" for what, side in _operands(work).items()}
    networks = [[*e.protocol.values(), e.dims] for e in work.extractors.values()]
    return {"ganctl": __version__, "verb": "fid", **numbers, **request.drawn, **sides, "networks": networks}


def _identity(work: Work, side: Operand) -> str:
    if side.kind == "model":
        return work.models[side.ref].revision
    return side.digest() if side.kind == "images" else sha256(Path(os.path.expanduser(side.ref)))  # noqa: PTH111


def _shown(work: Work, real: Side, fake: Side, network: str | None = None) -> list[Shown]:
    """The sides there are, real first, under a network, or any where the pictures are all that matters."""
    found = {"real": real, "generated": fake}
    return [
        Shown(work, side, what, found[what].get(network) if network else next(iter(found[what].values()), None))
        for what, side in _operands(work).items()
    ]


def _scores(work: Work, real: Side, fake: Side, stamps: Stamps) -> str:
    rows = []
    for stamp in stamps:
        name = stamp["metric"]
        spread = f" ± {stamp['std']:.3g}" if "std" in stamp else ""
        said = next(said for start, said in MEANING.items() if name.startswith(start))
        rows.append((name, f"{stamp[name]:.5g}{spread}", said))
    warnings = dict.fromkeys(warning for stamp in stamps for warning in stamp["warnings"])
    names = _names(work)
    for what, side in _operands(work).items():
        warnings = {warning.replace(quoted(side.ref), quoted(names[what])): None for warning in warnings}
    items = "\n".join(f"<li>{text(warning)}</li>" for warning in warnings)
    lines = [text(_protocol(work, metric, real, fake)) for metric in work.plan.metrics]
    parts = [
        "<h2>Scores</h2>",
        f'<div class="scores">{table(rows, ("score", "value", "what it says"))}</div>',
        f"<p>{'<br>'.join(lines)}</p>",
    ]
    if any("std" in stamp for stamp in stamps):
        parts.append("<p>± is the standard deviation over the subsets, splits or samples of this run.</p>")
    if warnings:
        parts.append(f'<div class="note">Mind, when you read these numbers:\n<ul>\n{items}\n</ul></div>')
    return "\n".join(parts)


def _protocol(work: Work, metric: Metric, real: Side, fake: Side) -> str:
    if metric.sampler_only:
        return how(work, metric)
    first = real[metric.features].stats if metric.two_sided else None
    return protocol(metric, first, fake[metric.features].stats)


def _side_by_side(work: Work, real: Side, fake: Side) -> str:
    names, columns = _names(work), []
    for side in _shown(work, real, fake):
        head = f"<h3>{side.what.capitalize()}: {text(names[side.what])}</h3>"
        body = drawn_tiles(side, SHOWN) if side.pictured else "<p>A file of statistics holds no pictures.</p>"
        columns.append(f"<section>\n{head}\n{body}\n</section>")
    said = f"Up to {SHOWN} images of each side, drawn at random by the seed {work.request.seed}."
    return f'<h2>What was compared</h2>\n<p>{said}</p>\n<div class="sides">\n' + "\n".join(columns) + "\n</div>"


def _comparison(work: Work, real: Side, fake: Side) -> list[str]:
    """The sections that set generated images beside real ones, or why there are none."""
    for network in work.plan.networks:
        sides = _shown(work, real, fake, network)
        if len(sides) == 2 and all(side.feats is not None for side in sides):
            others = f" (one of the {len(work.plan.networks)} used here)" if len(work.plan.networks) > 1 else ""
            said = f"Near means alike to the network {network}{others}, which is not always what the eye says."
            work.reporter.progress("report", 1, 3)  # of 50000 images of each side, a minute
            found = [nearest_section(sides[0], sides[1], said)]
            work.reporter.progress("report", 2, 3)
            found.append(realism_section(sides[0], sides[1]))
            work.reporter.progress("report", 3, 3)
            return [f"<h2>{head}</h2>\n{body}" for head, body in zip(HEADS, found, strict=True)]
    return [f"<h2>{HEADS[0]}</h2>\n<p>{text(_why_none(work, real, fake))}</p>"]


def _why_none(work: Work, real: Side, fake: Side) -> str:
    if not work.plan.real or not work.plan.networks:
        why = f"{work.request.metrics} looks at generated images alone"
        return f"Not shown: {why}. Add a metric of both sides, such as fid."
    network, names = work.plan.networks[0], _names(work)
    alone = [names[side.what] for side in _shown(work, real, fake, network) if side.feats is None]
    keep = next(m.id for m in METRICS.values() if m.kind == "kid" and m.features == network and not m.training)
    return (
        f"Not shown: {' and '.join(alone)} {'hold' if len(alone) > 1 else 'holds'} mean and covariance alone, not the "
        "features of each image. Pass the images themselves, or statistics that keep the features: "
        f"ganctl fid IMAGES --metrics {keep} --save-stats FILE.npz"
    )


def _facts(work: Work, real: Side, fake: Side, stamps: Stamps) -> str:
    request, sides = work.request, _shown(work, real, fake)
    columns = [_side_facts(work, side) for side in sides]
    kinds = dict.fromkeys(kind for column in columns for kind in column)
    networks = dict.fromkeys((s["features"], s.get("mode"), s.get("weights_sha256")) for s in stamps if "features" in s)
    run = []
    for name, mode, digest in networks:
        weights = f"weights of sha256 {digest}" if digest else "weights not recorded"
        run.append(("network", ", ".join(filter(None, (name, mode, weights)))))
    run += [("seed", str(request.seed)), ("ganctl", __version__)]
    run += [(f"--{name}", str(value)) for name, value in request.drawn.items()]
    if request.resolution:
        run.append(("--resolution", f"every image cropped and resized to {request.resolution}x{request.resolution}"))
    if request.mirror:
        run.append(("--mirror", "each real image counts a second time, mirrored"))
    rows = [(kind, *(column.get(kind, "") for column in columns)) for kind in kinds]
    return "\n".join(["<h2>How it was measured</h2>", table(rows, ("", *(side.what for side in sides))), table(run)])


def _side_facts(work: Work, side: Shown) -> dict[str, str]:
    """What is known of one side, in words."""
    model = work.models.get(side.operand.ref)
    facts = {"given": _names(work)[side.what], "revision": model.revision if model else ""}
    if side.measured:
        stats = side.measured.stats
        counts = {"sizes": stats.seen.sizes, "colours": stats.seen.channels, "formats": stats.seen.formats}
        facts["images"] = "not recorded" if stats.n is None else str(stats.n // (2 if stats.mirror else 1))
        facts |= {kind: _counted(count) for kind, count in counts.items()}
        facts["left out"] = f"{stats.seen.skipped} unreadable" if stats.seen.skipped else ""
    elif model:
        facts["images"] = str(work.plan.n)
    return {kind: said for kind, said in facts.items() if said}


def _counted(counts: Mapping[str, int], most: int = 4) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    parts = [f"{n} {kind}" for kind, n in [*counts.items()][:most]]
    return ", ".join(parts) + (f" and {len(counts) - most} others" if len(counts) > most else "")
