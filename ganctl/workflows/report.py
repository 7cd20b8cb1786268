"""RUN/report.html: one page that shows a run, needs nothing beside it, and is renewed at every snapshot."""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.io.files import atomic_write
from ganctl.workflows.html import document, inline, table

if TYPE_CHECKING:
    from ganctl.train.diagnosis import Finding

GRIDS = 60
"""Sample grids in the page, spread over the run."""
POINTS = 500
"""Of each curve."""
WIDTH, HEIGHT, LEFT, BELOW = 460, 160, 68, 18
"""Of a curve's drawing, and of the margins that its numbers stand in."""
NOT_CURVES = ("nimg", "kimg", "time", "step")
UNITS = {
    "sec_per_kimg": "seconds per thousand images",
    "wait": "share of the time in which steps waited for data",
    "memory_gib": "memory at its peak, GiB",
}
"""What comes after the losses."""
TITLES = {
    "D_auc": "D_auc: share of pairs that D puts in the right order (½ is guessing)",
    "D_sign": "D_sign: mean sign of D on training images (r_t)",
    "r_v": "r_v: how generated held-out images look to D (0 as trained ones, 1 as generated ones)",
    "D_auc_held": "D_auc_held: the same of images that were held out",
    "D_log_loss_held": "D_log_loss_held: log loss of D on images that were held out (0.69 is guessing)",
    "aug_p": "aug_p: probability of each augmentation",
    "variety": "variety: distance between samples, as a share of that between training images",
    "repeats": "repeats: share of samples that nearly repeat another",
    "copies": "copies: share of samples that nearly repeat a training image",
    "missing": "missing: share of the training images whose kind is hardly generated",
    "D_sure": "D_sure: -E log D(G(z)), how sure D is of generated images (0.69 is guessing)",
    "near": "near: share of the points within three deviations of a mode",
    **UNITS,
}

Points = list[tuple[float, float]]
"""(kimg, value), in order."""

STYLE = """
.warning { border-left: 4px solid #f59e0b; padding-left: 12px; max-width: 60em; }
.beside { display: flex; flex-wrap: wrap; gap: 0 28px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 20px 28px; }
.curves figure { display: block; margin: 0; } .curves svg { width: 100%; height: auto; }
figcaption { padding-left: 14.8%; } rect { fill: currentColor; fill-opacity: 0.05; }
polyline { fill: none; stroke: #3b82f6; stroke-width: 1.5; }
svg text { font-size: 11px; fill: currentColor; } img { image-rendering: pixelated; width: 476px; max-width: 100%; }
input[type=range] { width: 380px; max-width: 70%; vertical-align: middle; }
"""


def write_report(run: Path, recipe: str, findings: Sequence["Finding"] = ()) -> None:
    """Renews the page from what the run has on the disk, with what there is to warn of.

    `recipe` is its YAML text. Raises GanctlError (disk full).
    """
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        facts = dict(json.loads((run / "run.json").read_text(encoding="utf-8")))
    curves = read_curves(run / "log.jsonl")
    # By stem: the suffix would put 000000.200 before 000000.
    grids = thinned(sorted((run / "samples").glob("*.png"), key=lambda path: path.stem), GRIDS)
    with atomic_write(run / "report.html") as f:
        f.write(page(run.resolve().name, facts, curves, grids, recipe, run, findings))


def read_log(log: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl, each with its `kimg`. Those that are cut short are left out."""
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            rows.append({**row, "kimg": float(row["kimg"])})
    return rows


def read_curves(log: Path) -> dict[str, Points]:
    """Every number that the log follows, by name."""
    curves: dict[str, Points] = {}
    for row in read_log(log):
        for name, value in row.items():
            if name not in NOT_CURVES and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, []).append((row["kimg"], float(value)))
    # Speed goes last: the losses are what one looks for.
    names = sorted(curves, key=lambda name: name in UNITS)
    return {name: thinned(curves[name], POINTS) for name in names}


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spread, the last one always among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def page(
    name: str,
    facts: Mapping[str, Any],
    curves: Mapping[str, Points],
    grids: Sequence[Path],
    recipe: str,
    run: Path,
    findings: Sequence["Finding"],
) -> bytes:
    kimg = max((points[-1][0] for points in curves.values()), default=0.0)
    parts = [
        f"<p>{kimg:g} thousand images seen.</p>",
        *(f'<p class="warning"><b>{escape(f.words)}.</b> To mend it: {escape(f.hint)}.</p>' for f in findings),
        '<div class="beside">',
        _samples(grids),
        _picture("Real images", run / "reals.png"),
        _picture("The code space, a colour for each class", run / "codes.png"),
        _picture("The plane: D's answer, real points in blue, generated ones in orange", run / "points.gif"),
        _picture("How strongly G learns from D, by each loss, against how sure D is", run / "gradients.png"),
        "</div>",
        '<h2>Curves</h2>\n<div class="curves">' if curves else "",
        *(curve(label, points) for label, points in curves.items()),
        "</div>" if curves else "",
        "<h2>How it was made</h2>",
        table(_facts(facts)),
        f"<pre>{escape(recipe)}</pre>",
    ]
    return document(name, parts, style=STYLE)


def _picture(title: str, path: Path) -> str:
    if not path.is_file():
        return ""
    return f'<div><h2>{title}</h2>\n<p><img alt="{title.lower()}" src="{_inline(path)}"></p></div>'


def curve(label: str, points: Points) -> str:
    """One curve as SVG: the value over kimg, the ends of both axes beside it, its last value in the caption."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high, wide, base = min(ys), max(ys), (xs[-1] - xs[0]) or 1.0, HEIGHT - BELOW
    # What never changes is a line in the middle.
    low, high = (low, high) if high > low else (low - 1, high + 1)
    path = " ".join(
        f"{LEFT + (x - xs[0]) / wide * (WIDTH - LEFT):.1f},{base - 4 - (y - low) / (high - low) * (base - 8):.1f}"
        for x, y in points
    )
    marks = [(high, 12), (low, base - 4)] if max(ys) > min(ys) else [(ys[0], base / 2 + 4)]
    text = [f'<text x="{LEFT - 6}" y="{y:g}" text-anchor="end">{value:.3g}</text>' for value, y in marks]
    text += [
        f'<text x="{LEFT}" y="{HEIGHT - 4}">{xs[0]:g}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{xs[-1]:g} kimg</text>',
    ]
    title = TITLES.get(label, f"norm of the gradient, {label}" if label.endswith("_grad") else label)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><rect x="{LEFT}" width="{WIDTH - LEFT}" height="{base}"/>'
        f'<polyline points="{path}"/>{"".join(text)}</svg>'
        f"<figcaption>{escape(title)}: {ys[-1]:.4g}</figcaption></figure>"
    )


def _samples(grids: Sequence[Path]) -> str:
    """The grids over time behind one slider, the newest shown."""
    if not grids:
        return ""
    images = json.dumps([[re.sub(r"^0+(?=\d)", "", p.stem), _inline(p)] for p in grids])
    last = len(grids) - 1
    # `</` would end the script; no base64 text or number holds it.
    return f"""<div><h2>Samples</h2>
<p><img id="grid" alt="samples"><br>
<input id="at" type="range" min="0" max="{last}" value="{last}"> <span id="kimg"></span> kimg</p>
<script>
const grids = {images}, at = document.getElementById("at");
const kimg = document.getElementById("kimg"), grid = document.getElementById("grid");
at.oninput = () => {{ [kimg.textContent, grid.src] = grids[at.value]; }};
at.oninput();
</script></div>"""


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in facts.items():
        if key == "argv":
            key, value = "command", " ".join(["ganctl", *map(str, value)])
        if key == "skipped":
            key, value = "images left out", len(value)
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if value not in ("", [], None):
            rows.append((key, str(value)))
    return rows


def _inline(picture: Path) -> str:
    return inline(picture.read_bytes(), picture.suffix.removeprefix("."))
