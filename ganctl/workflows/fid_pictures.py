"""The pictures of a `fid --report` page: nearest neighbours, the most and least realistic, each image as a tile."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from ganctl.io.idx import IdxImage
from ganctl.io.images import BadImage, center_crop_resize, encode, resize, to_channels
from ganctl.metrics.neighbours import closer, drawn, spacing
from ganctl.metrics.precision_recall import nearest, precision_recall, realism
from ganctl.metrics.sources import decoded, sampled
from ganctl.workflows.fid_measure import Measured, Work
from ganctl.workflows.html import inline, text
from ganctl.workflows.operands import Operand

CLOSEST, DRAWN, COUNT = 10, 6, 5
"""Rows of neighbours: the closest and some drawn ones, each with its nearest few."""
EXTREMES = 12
"""Most and least realistic images."""
MANIFOLD = 10_000
"""Real images of the realism score, whose balls ask for the distances of all their pairs."""
NEIGHBOURS = 3
"""k of the manifold, as for precision."""
THUMBNAIL = 128
SMALL = 64
"""Longest side, in pixels, up to which a picture is kept without loss."""
QUALITY = 80
BREAKS = re.compile("([_/-])")
"""Where a long file name may be broken."""

STYLE = """
table { font-variant-numeric: tabular-nums; border-spacing: 0; margin-bottom: 1rem; }
th, td { padding-bottom: .35rem; }
td:first-child, .scores td:not(:last-child) { white-space: nowrap; }
@media (max-width: 640px) {
  .scores tr, .scores td:last-child { display: block; } .scores th { display: none; }
  .scores td { display: inline-block; padding: 0 1.2rem 0 0; font-weight: 600; }
  .scores td:last-child { padding: 0 0 .8rem; font-weight: 400; }
}
.note { border-left: 3px solid #d97706; padding-left: .8rem; } .note ul { margin: .2rem 0; padding-left: 1.2rem; }
.found { border-left: 3px solid #3b82f6; padding-left: .8rem; }
.tiles, .row { display: flex; gap: .7rem; } .tiles { flex-wrap: wrap; }
.row { overflow-x: auto; padding: .6rem 0; border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
.row figure:first-child { padding-right: .8rem; border-right: 3px solid #3b82f6; }
figure { margin: 0; flex: none; }
figcaption { width: min-content; min-width: max(100%, 96px); font-size: 12px; line-height: 1.3; }
figcaption, td { overflow-wrap: anywhere; }
img { display: block; height: 96px; max-width: 200px; object-fit: contain; } img.small { image-rendering: pixelated; }
.none { width: 96px; height: 96px; display: grid; place-items: center; box-sizing: border-box; border: 1px dashed;
  font-size: 13px; text-align: center; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 0 2rem; }
.sides img, .sides .none { height: 64px; } .sides .none { width: 64px; }
.sides figcaption { min-width: max(100%, 64px); font-size: 11px; }
"""


@dataclass(frozen=True)
class Shown:
    """One side, as the page shows it."""

    work: Work
    operand: Operand
    what: str
    """real or generated."""
    measured: Measured | None
    """Under the network that is looked at."""

    @property
    def feats(self) -> Float[np.ndarray, "rows d"] | None:
        return self.measured.stats.feats if self.measured else None

    @cached_property
    def images(self) -> Int[np.ndarray, "rows"]:
        """Which image of the side each row of features is of."""
        assert self.measured is not None and self.feats is not None
        if self.measured.positions is not None:
            return self.measured.positions
        return np.arange(len(self.feats)) // (2 if self.measured.stats.mirror else 1)

    @cached_property
    def digests(self) -> dict[int, int]:
        """Image → what names its pixels; empty where that is not known."""
        digests, there = self.measured and self.measured.stats.digests, np.unique(self.images)
        if digests is None or len(digests) != len(there):  # a file may record what it likes
            return {}
        return dict(zip(there.tolist(), digests.tolist(), strict=True))

    @property
    def pictured(self) -> bool:
        return self.operand.kind != "stats"

    def there(self) -> Int[np.ndarray, "images"]:
        """The images that could be read."""
        if self.measured and self.measured.positions is not None:
            return np.unique(self.measured.positions)
        return np.arange(len(self.operand.images) or self.work.plan.n)

    def mirrored(self, row: int) -> bool:
        """Whether a row is of an image's mirror image, which comes after the image itself."""
        return row > 0 and bool(self.images[row] == self.images[row - 1])

    def row(self, row: int, *notes: str) -> str:
        """The image that a row of features is of, as a tile."""
        return self.tile(int(self.images[row]), *notes, mirrored=self.mirrored(row))

    def tile(self, image: int, *notes: str, mirrored: bool = False) -> str:
        """An image over its name. `notes` are HTML, a line each."""
        pixels, label = self._pixels(image), text(self._label(image) + (" (mirrored)" if mirrored else ""))
        if pixels is None:
            picture = f'<div class="none">{"unreadable" if self.pictured else "no picture"}</div>'
        else:
            small, address = _thumbnail(pixels[:, ::-1] if mirrored else pixels)
            picture = f'<img{small} alt="{self.what} image, {label}" src="{address}">'
        caption = "<br>".join([*notes, BREAKS.sub(r"\1<wbr>", label)])
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def _label(self, image: int) -> str:
        if self.operand.kind == "model":
            return f"seed {self.work.request.seed + image}"
        ref = self.operand.images[image] if self.operand.images else None
        return f"no. {image if ref is None else ref.name}" if ref is None or isinstance(ref, IdxImage) else ref.name

    def _pixels(self, image: int) -> np.ndarray | None:
        """uint8 [H, W, C] as the network saw it, before it was brought to the network's own size."""
        if not self.pictured:
            return None
        if self.operand.kind == "model":
            seed, model = self.work.request.seed + image, self.work.models[self.operand.ref]
            (pixels,) = sampled(model, range(seed, seed + 1), **self.work.drawn)
        else:
            try:
                pixels = decoded(self.operand.images[image])[0].pixels
            except BadImage:  # it was there when it was measured, or the features come from the cache
                return None
        side = self.work.request.resolution
        return center_crop_resize(pixels, (side, side)) if side else pixels


def drawn_tiles(side: Shown, most: int) -> str:
    """Some of its images, drawn by the seed, in order."""
    there = side.there()
    chosen = np.random.default_rng(side.work.request.seed).choice(there, min(most, len(there)), replace=False)
    return tiles(side.tile(int(image)) for image in np.sort(chosen))


def tiles(figures: Iterable[str]) -> str:
    return '<div class="tiles">\n' + "\n".join(figures) + "\n</div>"


def _thumbnail(pixels: np.ndarray) -> tuple[str, str]:
    """The class of an image as an attribute, and its address."""
    longest = max(pixels.shape[:2])
    if longest > THUMBNAIL:
        h, w = (max(1, round(side * THUMBNAIL / longest)) for side in pixels.shape[:2])
        pixels = resize(pixels, (h, w))
    flat = to_channels(pixels, 3) if pixels.shape[2] == 4 else pixels
    if longest <= SMALL:
        return ' class="small"', inline(encode(flat))
    return "", inline(encode(flat, "jpg", QUALITY), "jpeg")


# Nearest neighbours


def nearest_section(real: Shown, fake: Shown, said: str) -> str:
    """Generated images beside the real ones nearest to them, the closest first, and how near is usual.

    `said` is a sentence about the network.
    """
    rng = np.random.default_rng(real.work.request.seed)
    assert real.feats is not None and fake.feats is not None
    n, dims = real.feats.shape
    looked = drawn(len(fake.feats), n, dims, rng)
    try:
        usual = spacing(real.feats, real.images, drawn(n, n, dims, rng))
    except ValueError as e:
        return f"<p>Not shown: {text(e)}.</p>"
    copied = set(real.digests.values())
    twins = [image for image, digest in fake.digests.items() if digest in copied]
    # Pixels are compared of all images; so copies are shown even where they are not among those drawn.
    rows = np.union1d(looked, np.searchsorted(fake.images, twins[:CLOSEST]).astype(np.int64))
    index, distance = nearest(fake.feats[rows], real.feats, min(COUNT, n))
    order = np.lexsort((distance[:, 0], ~np.isin(fake.images[rows], twins)))
    others = np.sort(rng.permutation(order[CLOSEST:])[:DRAWN])

    def line(k: int) -> str:
        row = int(rows[k])
        mine = fake.digests.get(int(fake.images[row]))
        near = []
        for i, d in zip(index[k], distance[k], strict=True):
            twin = mine is not None and mine == real.digests.get(int(real.images[i])) and not real.mirrored(int(i))
            near.append(real.row(int(i), f"distance {d:.3g}", *(["<mark>identical pixels</mark>"] if twin else [])))
        return '<div class="row">\n' + "\n".join([fake.row(row, "generated"), *near]) + "\n</div>"

    shown = ["<p>Files of statistics hold no pictures to show.</p>"]
    if real.pictured or fake.pictured:
        shown = [f"<h3>The {min(CLOSEST, len(order))} closest</h3>", *(line(k) for k in order[:CLOSEST])]
        shown += [f"<h3>{len(others)} drawn at random</h3>", *(line(k) for k in others)] if len(others) else []
    return "\n".join(
        [
            "<p>A generator that has learned makes new images; one that has memorised returns those it was trained "
            "on. Each row has a generated image on the left and, right of the line, the real images nearest to it "
            f"with their distances. {text(said)} The same picture on both sides of the line is a copy; a like pose or "
            "shape in another picture is not. Copies can only be found among the images given as REAL: give the ones "
            "the generator was trained on.</p>",
            _copies(len(twins), real, fake) + _nearness(distance[np.isin(rows, looked), 0], usual, len(fake.images)),
            *shown,
        ]
    )


def _copies(twins: int, real: Shown, fake: Shown) -> str:
    if not (real.digests and fake.digests):
        return '<p class="found">Whether pixels are identical is not known: a file of statistics does not say.</p>'
    them = "image is" if twins == 1 else "images are"
    said = f"<strong>{twins} of {len(fake.digests)} generated {them} pixel for pixel in the real set.</strong>"
    return f'<p class="found">{said}</p>'


def _nearness(distance: Float[np.ndarray, "m"], usual: Float[np.ndarray, "n"], total: int) -> str:
    """How near generated images come to real ones, held against how near real ones are to each other, in sentences."""
    if not usual.any():
        why = "To the network all real images are the same, so there is no distance to hold the others against."
        return f'<p class="found">{why}</p>'
    looked, near = len(distance), int(closer(distance, usual).sum())
    # Both hundredths are of a draw: three standard deviations of their difference.
    chance = 0.01 * looked + 3 * (0.01 * looked * (1 + looked / len(usual))) ** 0.5
    drawn_from = "" if looked == total else f" (drawn by the seed from {total})"
    verdict = "more than chance gives, so look for copies below" if near > chance else "no more than chance gives"
    return (
        f'<p class="found"><strong>{near} of {looked} generated images{drawn_from} {"is" if near == 1 else "are"} '
        "nearer to a real one than 99 % of the real images are to each other.</strong> Of fresh real images about 1 in "
        f"100 would be: this is {verdict}.</p>\n"
        f'<p class="found">Half of the generated images have a real one within {np.median(distance):.3g}. Half of the '
        f"real images have another real one within {np.median(usual):.3g} ({len(usual)} were looked at).</p>"
    )


# Realism


def realism_section(real: Shown, fake: Shown) -> str:
    """The generated images deepest inside the real manifold, and those farthest outside it."""
    rng = np.random.default_rng(real.work.request.seed)
    assert real.feats is not None and fake.feats is not None
    feats = real.feats
    if len(feats) > MANIFOLD:
        feats = feats[np.sort(rng.choice(len(feats), MANIFOLD, replace=False))]
    rows = drawn(len(fake.feats), len(feats), feats.shape[1], rng)
    try:
        found = realism(feats, fake.feats[rows], k=NEIGHBOURS)
    except ValueError as e:
        return f"<p>Not shown: {text(e)}.</p>"
    if not (np.isfinite(found) & (found > 0)).any():
        why = "to the network half of the real images or more are copies of others, so they span no region"
        return f"<p>Not shown: {why}.</p>"
    order = np.argsort(-found, kind="stable")
    most = min(EXTREMES, len(order) // 2)

    def tiled(some: Iterable[int]) -> str:
        # Copies in the middle of a ball have no end of it, up to the rounding of features.
        return tiles(fake.row(int(rows[k]), f"R {found[k]:.3g}" if found[k] < 1000 else "R ∞") for k in some)

    shown = ["<p>A file of statistics holds no pictures to show.</p>"]
    if fake.pictured:
        shown = ["<h3>Most realistic: what the generator does best</h3>", tiled(order[:most])]
        shown += ["<h3>Least realistic: where it fails</h3>", tiled(order[::-1][:most])]
    return "\n".join(
        [
            "<p>A ball around each real image, as far as its neighbour no. "
            f"{NEIGHBOURS}, makes the region of real images: precision is the share of generated ones inside. The "
            "realism score R (Kynkäänniemi et al., 2019) says how deep: 1 is the border, more is inside, ∞ is a real "
            "image itself, as the network sees it. Only the smaller half of the balls counts for R, so that lone "
            "images do not take in everything around them.</p>",
            _outside(real, fake, feats, rows, found),
            *shown,
        ]
    )


def _outside(
    real: Shown, fake: Shown, feats: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "m"], found: Float[np.ndarray, "m"]
) -> str:
    """How many generated images the region leaves out, in a sentence."""
    assert real.feats is not None and fake.feats is not None
    precision = precision_recall(feats, fake.feats[rows], k=NEIGHBOURS)[0]
    counts = (len(rows), len(fake.feats)), (len(feats), len(real.feats))
    outside, below = round((1 - precision) * len(rows)), int((found < 1).sum())
    drawn_from = ["" if n == total else f" (drawn by the seed from {total})" for n, total in counts]
    return (
        f'<p class="found"><strong>{outside} of {len(rows)} generated images{drawn_from[0]} lie outside the '
        f"region</strong> of {len(feats)} real images{drawn_from[1]}; {below} have an R below 1.</p>"
    )
