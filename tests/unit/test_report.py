"""A run's page: everything it has is in it, and nothing in it can be more than text."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ganctl.io.images import write_image
from ganctl.workflows.report import GRIDS, POINTS, read_curves, thinned, write_report

HOSTILE = "<script>alert(1)</script>&\x1b[31m"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run <b>"
    (folder / "samples").mkdir(parents=True)
    facts = {"ganctl": "0.1.0", "argv": ["train", "gan", HOSTILE], "data": {"path": HOSTILE}, "skipped": [{}, {}]}
    (folder / "run.json").write_text(json.dumps(facts))
    rows = [
        {"nimg": 1000 * i, "kimg": float(i), "time": 0.0, "sec_per_kimg": 2.0, "D_loss": 1 / i} for i in range(1, 5)
    ]
    lines = [json.dumps(r) for r in [*rows, {"nimg": 4000, "kimg": 4.0, "fd-lenet": 7.25}]]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"kimg": 5, "D_loss": NaN}', '{"kimg": 5.0, "D_lo']))
    for i, name in enumerate(("000000", "000000.500", "000004")):
        write_image(folder / "samples" / f"{name}.png", np.full((8, 8, 1), 60 * i, np.uint8))
    write_image(folder / "reals.png", np.zeros((8, 8, 1), np.uint8))
    return folder


def test_the_page_holds_the_run(run: Path) -> None:
    write_report(run, "model: gan\n")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "4 thousand images seen" in page and "model: gan" in page
    assert page.count("<polyline") == 3
    assert "D_loss: 0.25" in page and "fd-lenet: 7.25" in page
    assert page.index("D_loss") < page.index("seconds per thousand images")
    grids = json.loads(re.search(r"const grids = (\[.*?\]),? at =", page).group(1))  # type: ignore[union-attr]
    assert [kimg for kimg, _ in grids] == ["0", "0.500", "4"]
    assert len({data for _, data in grids}) == 3 and all(d.startswith("data:image/png;base64,") for _, d in grids)
    # One page, with nothing to fetch.
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_what_the_run_says_is_text(run: Path) -> None:
    write_report(run, HOSTILE)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<b>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


def test_a_page_without_facts_or_log(run: Path) -> None:
    (run / "run.json").write_text("{cut")
    (run / "log.jsonl").unlink()
    write_report(run, "model: gan\n")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Curves" not in page and "0 thousand images" in page


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps({"kimg": float(i), "G_loss": float(i)}) for i in range(5 * POINTS)))
    points = read_curves(log)["G_loss"]
    assert len(points) == POINTS and points[0] == (0.0, 0.0) and points[-1] == (5 * POINTS - 1.0,) * 2
    assert thinned(list(range(GRIDS)), GRIDS) == list(range(GRIDS))
