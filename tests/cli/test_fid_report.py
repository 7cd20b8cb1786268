"""`ganctl fid --report`: the page has the scores, finds copies and failures, and says what it cannot show."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.io.outputs import request_in
from tests.cli.fid_tools import Heard, fid, pictures, pixels
from tests.conftest import Shell

VOID = {"meta", "img", "br", "wbr"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a cache of its own."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class Page(HTMLParser):
    """A page as its reader has it; refuses tags that do not close, and anything to fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.heads: list[str] = []
        self.rows: list[list[str]] = []
        """Of nearest neighbours: what is written under each picture."""
        self.tiles: dict[str, list[str]] = {}
        """Heading → what is written under each picture below it."""
        self.caption = ""
        self.alts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(re.sub(r"<[^>]*>", " ", self.source.split("</style>")[1]).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not any(k.startswith("on") for k in given) and tag not in ("script", "link", "iframe")
        assert "href" not in given and (given.get("src") or "data:image/").startswith("data:image/")
        if tag == "img":
            assert given["alt"]
            self.alts.append(str(given["alt"]))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.heads.append("")
        elif tag == "div" and given.get("class") == "row":
            self.rows.append([])
        elif tag == "figcaption":
            self.caption = ""
        elif tag == "br":
            self.caption += "\n"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "figcaption":
            self.tiles.setdefault(self.heads[-1], []).append(self.caption)
            if "closest" in self.heads[-1] or "at random" in self.heads[-1]:
                self.rows[-1].append(self.caption)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.heads[-1] += data
        elif "figcaption" in self.open:
            self.caption += data


def made(heard: Heard, path: str = "page.html") -> Page:
    assert heard.error is None, heard.error
    assert heard.results[-1] == {"path": path, "status": "written"}
    return Page(Path(path))


def test_the_page_has_what_was_printed(ganctl: Shell) -> None:
    pictures(ganctl.folder / "digits" / "real", pixels(40, 0))
    pictures(ganctl.folder / "<b>&\"fakes'", pixels(30, 1))
    asked = ("fid", "--metrics", "fd-lenet,kid-lenet", "--kid-subset-size", 20, "digits/real", "<b>&\"fakes'")
    done = ganctl.ok(*asked, "--report", "page.html", "--json")
    *stamps, last = map(json.loads, done.lines)
    assert last == {"path": "page.html", "status": "written"}
    page = Page(ganctl.folder / "page.html")
    assert page.heads[:2] == ["<b>&\"fakes' against real", "Scores"]
    assert page.heads[2:5] == ["What was compared", "Real: real", "Generated: <b>&\"fakes'"]
    for stamp in stamps:
        value = f"{stamp[stamp['metric']]:.5g}"
        assert f"{stamp['metric']} {value}" + (f" ± {stamp['std']:.3g}" if "std" in stamp else "") in page.text
        assert all(warning.split(":")[0] in page.text for warning in stamp["warnings"])
    assert "kid-lenet, lenet-mnist, 28x28x1, 84 dimensions, 40 real, 30 fake images" in page.text
    assert stamps[0]["weights_sha256"] in page.text and stamps[0]["ganctl"] in page.text
    # The path of the folder is the reader's own business.
    assert str(ganctl.folder) not in page.source
    assert len(page.tiles["Real: real"]) == len(page.tiles["Generated: <b>&\"fakes'"]) == 24
    assert [len(row) for row in page.rows] == [6] * 16
    assert {alt.split(",")[0] for alt in page.alts} == {"real image", "generated image"}


def test_the_same_request_finds_its_page(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(20, 0)), pictures(here / "fake", pixels(12, 1))
    made(fid(real, fake, report="page.html"))
    before = (here / "page.html").read_bytes()
    again = fid(real, fake, report="page.html")
    assert again.results[-1] == {"path": "page.html", "status": "exists"} and "fd-lenet" in again.results[0]
    other = fid(real, fake, report="page.html", seed=3)
    assert other.error is not None and other.error.code == 2 and other.results == []
    assert other.error.why == "another request wrote it: seed was '0' and is now '3'"
    made(fid(real, fake, report="page.html", overwrite=True))
    assert (here / "page.html").read_bytes() == before


def test_copies_come_first_and_are_marked(here: Path) -> None:
    real, fake = pixels(60, 0), pixels(40, 1)
    fake[7], fake[31] = real[12], real[5]
    page = made(fid(pictures(here / "real", real), pictures(here / "fake", fake), report="page.html"))
    assert "2 of 40 generated images are pixel for pixel in the real set." in page.text
    pairs = [(row[0], row[1]) for row in page.rows if "identical" in row[1]]
    assert pairs == [
        ("generated\n0007.png", "distance 0\nidentical pixels\n0012.png"),
        ("generated\n0031.png", "distance 0\nidentical pixels\n0005.png"),
    ]
    assert [pair[0] for pair in pairs] == [row[0] for row in page.rows[:2]]
    assert page.source.count("<mark>") == 2
    nearest = [float(row[1].split()[1]) for row in page.rows[:10]]
    assert nearest == sorted(nearest) and nearest[2] > 0
    for row in page.rows:
        distances = [float(tile.split()[1]) for tile in row[1:]]
        assert distances == sorted(distances)
    assert len({row[0] for row in page.rows}) == 16


def test_many_copies_are_more_than_chance_gives(here: Path) -> None:
    real, fake = pixels(60, 0), pixels(40, 1)
    new = made(fid(pictures(here / "real", real), pictures(here / "fake", fake), report="page.html"))
    assert "0 of 40 generated images are pixel for pixel" in new.text and "no more than chance gives." in new.text
    copied = np.concatenate([real[:8], fake[8:]])
    copied[:, 0, 0] ^= 1  # no pixel for pixel copy any more
    page = made(fid(here / "real", pictures(here / "copied", copied), report="copied.html"), "copied.html")
    assert "0 of 40 generated images are pixel for pixel" in page.text
    assert re.search(r" (8|9|1\d) of 40 generated images are nearer to a real one than 99 % of the real", page.text)
    assert "more than chance gives, so look for copies below" in page.text
    assert {row[0] for row in page.rows[:8]} == {f"generated\n{i:04}.png" for i in range(8)}


def test_large_sides_are_drawn_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganctl.metrics.neighbours.MOST", 12)
    monkeypatch.setattr("ganctl.workflows.fid_pictures.MANIFOLD", 30)
    real, fake = pixels(60, 0), pixels(40, 1)
    fake[[3, 8, 17, 25, 39]] = real[:5]
    page = made(fid(pictures(here / "real", real), pictures(here / "fake", fake), report="page.html"))
    # Copies are looked for among all.
    assert "5 of 40 generated images are pixel for pixel in the real set." in page.text
    assert [row[0][-8:-4] for row in page.rows[:5]] == ["0003", "0008", "0017", "0025", "0039"]
    assert re.search(r"\d of 12 generated images \(drawn by the seed from 40\) (is|are) nearer", page.text)
    assert "(12 were looked at)" in page.text
    said = (
        r"of 12 generated images \(drawn by the seed from 40\) lie outside the region of 30 real images \(drawn by the"
    )
    assert re.search(said, page.text)


def test_noise_is_least_realistic(here: Path) -> None:
    # All of one drawing, a little changed: to LeNet, noise lies amid drawings that have nothing in common.
    rng = np.random.default_rng(0)
    changed = (pixels(1, 0) + rng.integers(-40, 40, (100, 28, 28))).clip(0, 255).astype(np.uint8)
    fake = changed[60:]
    fake[[4, 20, 33]] = rng.integers(0, 256, (3, 28, 28), np.uint8)
    real = pictures(here / "real", changed[:60])
    heard = fid(real, pictures(here / "fake", fake), metrics="pr-lenet", report="page.html")
    page = made(heard)
    least = [tile.split("\n")[1] for tile in page.tiles["Least realistic: where it fails"]]
    assert set(least[:3]) == {"0004.png", "0020.png", "0033.png"}
    most = [tile.split("\n")[1] for tile in page.tiles["Most realistic: what the generator does best"]]
    assert len(most) == len(least) == 12 and not {*most} & {*least}
    # What precision leaves out.
    precision = next(r["precision-lenet"] for r in heard.results if r.get("metric") == "precision-lenet")
    assert f"{round(40 * (1 - precision))} of 40 generated images lie outside the region" in page.text


def test_a_model_beside_mirrored_images(here: Path) -> None:
    folder = pictures(here / "real", pixels(12, 0))
    page = made(fid(folder, "dcgan-mnist", num=10, seed=5, mirror=True, report="page.html"))
    assert page.tiles["Generated: dcgan-mnist"] == [f"seed {seed}" for seed in range(5, 15)]
    assert {row[0] for row in page.rows} == {f"generated\nseed {seed}" for seed in range(5, 15)}
    assert page.source.count('class="small"') == len(page.alts)
    # A generated image that is the mirror image of a real one lies at the mirrored row.
    flipped = pictures(here / "flipped", pixels(12, 0)[:, :, ::-1])
    page = made(fid(folder, flipped, mirror=True, report="flipped.html"), "flipped.html")
    for row in page.rows:
        assert row[1] == f"distance 0\n{row[0].split()[1]} (mirrored)"
    assert "12 of 12 generated images are nearer to a real one" in page.text


def test_unreadable_images_shift_nothing(here: Path) -> None:
    real, fake = pixels(30, 0), pixels(12, 1)
    fake[9] = real[20]
    for folder in (pictures(here / "real", real), pictures(here / "fake", fake)):
        (folder / "0003.png").write_bytes(b"no image")
    heard = fid(here / "real", here / "fake", skip_bad=True, report="page.html")
    assert heard.error is not None and heard.error.code == 3
    page = Page(here / "page.html")
    assert page.rows[0][:2] == ["generated\n0009.png", "distance 0\nidentical pixels\n0020.png"]
    assert "1 of 11 generated image is pixel for pixel" in page.text and "1 unreadable" in page.text
    assert "0003.png" not in page.text


def test_statistics_have_no_pictures(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(30, 0)), pictures(here / "fake", pixels(12, 1))
    fid(real, metrics="fd-lenet", save_stats="moments.npz")
    fid(real, metrics="kid-lenet", save_stats="features.npz")
    page = made(fid("moments.npz", fake, report="page.html"))
    assert "A file of statistics holds no pictures." in page.text and len(page.tiles) == 1
    assert "Not shown: moments.npz holds mean and covariance alone" in page.text
    assert "ganctl fid IMAGES --metrics kid-lenet --save-stats FILE.npz" in page.text

    # Features are enough for distances, and for what is shown of the other side.
    whole = made(fid(real, fake, report="whole.html"), "whole.html")
    page = made(fid("features.npz", fake, report="feats.html"), "feats.html")
    assert [row[0] for row in page.rows] == [row[0] for row in whole.rows]
    for row, other in zip(page.rows, whole.rows, strict=True):
        for tile, pictured in zip(row[1:], other[1:], strict=True):
            number = int(pictured.split("\n")[1].removesuffix(".png"))
            assert tile == f"{pictured.splitlines()[0]}\nno. {number}"
    assert page.source.count("no picture<") == 5 * len(page.rows)
    page = made(fid(fake, "features.npz", report="swapped.html"), "swapped.html")
    assert "generated images lie outside the region" in page.text and "holds no pictures to show" in page.text
    page = made(fid("features.npz", "features.npz", report="neither.html"), "neither.html")
    assert page.alts == [] and page.rows == [] and "30 of 30 generated images are pixel for pixel" in page.text


def test_metrics_of_one_side(here: Path) -> None:
    page = made(fid(pictures(here / "fake", pixels(20, 1)), metrics="is-lenet", report="page.html"))
    assert "Not shown: is-lenet looks at generated images alone." in page.text
    assert page.heads[:4] == ["fake", "Scores", "What was compared", "Generated: fake"] and len(page.alts) == 20


def test_several_networks(here: Path) -> None:
    real, fake = pictures(here / "real", pixels(20, 0)), pictures(here / "fake", pixels(20, 1))
    page = made(fid(real, fake, metrics="fd-lenet-fashion,fd-lenet", report="page.html"))
    assert "alike to the network lenet-fashion-mnist (one of the 2 used here)" in page.text
    assert "lenet-fashion-mnist, 28x28x1, weights of sha256" in page.text and "lenet-mnist, 28x28x1, w" in page.text


def test_too_few_or_equal_images(here: Path) -> None:
    few, fake = pictures(here / "few", pixels(3, 0)), pictures(here / "fake", pixels(20, 1))
    page = made(fid(few, fake, report="page.html"))
    assert "Not shown: " in page.text and "3 neighbours" in page.text
    assert {len(row) for row in page.rows} == {4}
    same = pictures(here / "same", np.repeat(pixels(1, 0), 8, 0))
    page = made(fid(same, fake, report="same.html"), "same.html")
    assert "To the network all real images are the same" in page.text and "they span no region" in page.text


def test_large_pictures_make_no_large_page(here: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        pictures(here / name, rng.integers(0, 256, (40, 128, 128, 3), np.uint8))
    Image.fromarray(rng.integers(0, 256, (4, 900, 4), np.uint8)).save(here / "fake" / "0000.png")  # RGBA, a thread
    page = made(fid(here / "real", here / "fake", report="page.html"))
    assert len(page.source) < 4 << 20
    assert "data:image/jpeg" in page.source and 'class="small"' not in page.source


def test_places_that_are_refused(ganctl: Shell, here: Path) -> None:
    real, fake = pictures(ganctl.folder / "real", pixels(6, 0)), pictures(ganctl.folder / "fake", pixels(6, 1))
    (ganctl.folder / "file").write_text("x")
    done = ganctl("fid", "--metrics", "fd-lenet", "real", "fake", "--report", "file/page.html")
    assert (done.code, done.out) == (2, "") and done.err.startswith("error: cannot write 'file/page.html'\n")
    for name in ("page.pdf", "page"):
        heard = fid(real, fake, report=name)
        assert heard.error is not None and heard.error.code == 2 and "must end in .html" in str(heard.error.why)
    (here / "other.html").write_text("<p>mine")
    heard = fid(real, fake, report="other.html")
    assert heard.error is not None and heard.error.code == 2 and heard.results == []
    assert "carries no ganctl request" in str(heard.error.why) and (here / "other.html").read_text() == "<p>mine"
    heard = fid(real, save_stats="real.npz", report="page.html")
    assert heard.error is not None and heard.error.code == 2 and "FAKE is missing" in str(heard.error.why)
    assert not (here / "page.html").exists()
    # What a page carries is looked for in a page's own place.
    (here / "cut.html").write_text('<meta name="ganctl-request" content="{&quot;verb&quot;: ')
    assert request_in(here / "cut.html") is None and request_in(here / "absent.html") is None
