"""What `ganctl sample` is asked for, resolved and checked in milliseconds, before torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import UsageError, quoted
from ganctl.io.outputs import check_writable, default_folder
from ganctl.io.seeds import MAX_SEED, MAX_SEEDS, parse_seeds, seed_text
from ganctl.workflows.styles import Style, class_count, parse_layers

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MODEL = "dcgan-fashion-mnist"
SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".npy": "npy"}
OTHER_IMAGES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".mp4", ".webm", ".npz", ".tar")
SWEPT = 10
"""Values of a swept code where there is no grid (Chen et al. 2016, fig. 2)."""
MAX_GRID = 10_000
MAX_SIZE = 16_384
PER_FOLDER = 1000


@config
class SampleRequest:
    """The options of `ganctl sample`."""

    model: str = DEFAULT_MODEL
    num: int | None = None
    """How many; by default 1, or as many as the grid holds."""
    seed: int = 0
    """Image i uses seed + i."""
    seeds: str | None = None
    """A list such as '0-35,85', in place of num and seed."""
    latents: tuple[str, ...] = ()
    """.npz files with `w` or `z`, in place of seeds."""
    classes: str | None = None
    """'207', 'tabby', '0-9,12' or 'all': a picture of each for every seed; None draws one by the seed."""
    sweep: int | None = None
    """Of a model with codes, which of them goes from -2 to 2, over the grid's columns, for every seed and class."""
    trunc: float | None = None
    """Truncation ψ; None is the model card's, or 1.0."""
    trunc_cutoff: int | None = None
    """Only the first so many layers are truncated."""
    noise_mode: Literal["const", "random", "none"] | None = None
    """None is const."""
    noise_layers: str | None = None
    """'0-7': the only layers that add noise."""
    translate: str | None = None
    """'X,Y': every picture moved by so many of its sides, right and down (StyleGAN3) …"""
    rotate: float | None = None
    """… after it was turned by so many degrees, counter-clockwise."""
    rows: str | None = None
    """Seeds of a mixing sheet's rows, in place of seeds …"""
    cols: str | None = None
    """… and of its columns, whose styles each row's picture takes."""
    styles: str | None = None
    """The layers it takes, '0-6'; None: those, or the first half of fewer than 14."""
    batch_size: int | None = None
    """Images computed at once on a GPU; None starts with 32 and halves when memory is short."""
    format: str | None = None
    quality: int = 95
    size: int | None = None
    """Pixels of the shorter side; None keeps the network's own size."""
    grid: str | None = None
    """'CxR': columns by rows of one sheet."""
    save_latents: bool = False
    subdirs: bool = False
    out: str | None = None
    """A folder, one image file, a .zip, or '-'; None is out/<model>/sample."""
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False

    @property
    def style(self) -> Style:
        return Style(self.trunc, self.trunc_cutoff, self.noise_mode, self.noise_layers, self.translate, self.rotate)


@dataclass(frozen=True)
class Item:
    """One picture to make."""

    name: str
    """File name without suffix."""
    number: int
    """Its seed, or its place among the latents."""
    seed: int | None
    z: "Tensor | None" = None
    """[*z], when it comes from a latent file …"""
    source: str = ""
    """… this one."""
    c: int | None = None
    """Its class, of a conditional model."""
    w: "Tensor | None" = None
    """[l, w], when it comes from a latent file …"""
    maps: "Mapping[str, Tensor]" = field(default_factory=dict)
    """… and the noise maps that it has beside it."""


def seed_item(seed: int, c: int | None = None) -> Item:
    return Item(f"seed{seed:04d}" if c is None else f"seed{seed:04d}-class{c:04d}", seed, seed, c=c)


@dataclass(frozen=True)
class Mix:
    """A style-mixing sheet: every row's picture, with some layers' styles from every column's."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    layers: tuple[int, ...] | None
    """None: the usual ones."""


@dataclass(frozen=True)
class Plan:
    """A request resolved without loading anything."""

    request: SampleRequest
    kind: str
    """folder | file | zip | stream"""
    path: Path | None
    format: str
    seeds: tuple[int, ...]
    columns: int = 0
    rows: int = 0
    mix: Mix | None = None

    def file(self, item: Item, suffix: str) -> Path:
        """Where an item's picture (or latent) goes, relative for a zip or tar."""
        if self.kind == "file" and self.path:
            return self.path.with_suffix(self.path.suffix if suffix == self.format else f".{suffix}")
        name = Path(f"{item.name}.{suffix}")
        if self.request.subdirs:
            name = Path(f"{item.number - item.number % PER_FOLDER:06d}") / name
        return self.path / name if self.kind == "folder" and self.path else name

    @property
    def sheet_only(self) -> bool:
        """One file or stream, and a grid: the grid is the picture."""
        return self.columns > 0 and self.kind in ("file", "stream")


def plan(request: SampleRequest) -> Plan:
    """Checks a request in milliseconds: options, seeds, output, the model's name. Raises UsageError."""
    columns, rows = _grid(request.grid) if request.grid else (0, 0)
    mix = _mix(request)
    seeds = () if mix else _seeds(request, columns, rows)
    for path in request.latents:
        if not Path(path).is_file():
            raise UsageError(f"cannot read latents {quoted(path)}", "there is no such file")
    _check_numbers(request)
    request.style.check()
    kind, path = _target(request)
    form = request.format or (SUFFIXES[path.suffix.lower()] if kind == "file" and path else "png")
    found = Plan(request, kind, path, form, seeds, columns, rows, mix)
    if form == "npy" and (mix or (columns and found.sheet_only)):
        raise UsageError("cannot write a grid as npy", "a grid is one picture", "use a .png")
    if mix and kind == "zip":
        raise UsageError(
            f"cannot write a mixing sheet to {quoted(path)}", "it is one picture", "use a .png or a folder"
        )
    count = len(seeds) * (_each(request, columns) or 1)
    if kind == "file" and count != 1 and not columns and not request.latents and not mix:
        what = f"cannot write {count} images to {quoted(path)}"
        raise UsageError(what, "one file holds one image", "use a folder or .zip")
    if request.save_latents and (kind == "stream" or found.sheet_only):
        where = "-o -" if kind == "stream" else "a grid alone"
        raise UsageError(f"cannot use --save-latents with {where}", "latents lie beside the images", "use a folder")
    if request.subdirs and kind == "file":
        raise UsageError(f"cannot use --subdirs with {quoted(path)}", "it is one file", "use a folder or .zip")
    check_name(request.model)
    if path is not None:
        check_writable(path, folder=kind == "folder")
    return found


def _check_numbers(request: SampleRequest) -> None:
    if request.batch_size is not None and request.batch_size < 1:
        raise UsageError(f"cannot use --batch-size {request.batch_size}", "it must be 1 or more")
    if not 1 <= request.quality <= 100:
        raise UsageError(f"cannot use --quality {request.quality}", "it must be 1 to 100")
    if request.size is not None and not 1 <= request.size <= MAX_SIZE:
        raise UsageError(f"cannot use --size {request.size}", f"it must be 1 to {MAX_SIZE}")
    if request.format is not None and request.format not in SUFFIXES.values():
        raise UsageError(f"unknown --format {quoted(request.format)}", f"known: {', '.join(SUFFIXES.values())}")


def _mix(request: SampleRequest) -> Mix | None:
    """The mixing sheet that is asked for. Raises UsageError for half of one, and for options it has no place for."""
    given = {"--rows": request.rows, "--cols": request.cols, "--styles": request.styles}
    if not any(value is not None for value in given.values()):
        return None
    if request.rows is None or request.cols is None:
        lacking = "--rows" if request.rows is None else "--cols"
        option = next(o for o, value in given.items() if value is not None)
        why = "a mixing sheet needs seeds for its rows and its columns"
        raise UsageError(f"cannot use {option} without {lacking}", why, "such as --rows 85,100 --cols 55,821")
    others = {
        "-n": request.num, "--seeds": request.seeds, "--latents": request.latents, "--grid": request.grid,
        "--save-latents": request.save_latents, "--subdirs": request.subdirs, "--seed": request.seed,
        "--sweep": request.sweep,
    }  # fmt: skip
    for option, value in others.items():
        if value:
            raise UsageError(f"cannot use {option} with --rows", "a mixing sheet is made of its own seeds", "keep one")
    rows = dict.fromkeys(parse_seeds(request.rows, option="--rows"))
    cols = dict.fromkeys(parse_seeds(request.cols, option="--cols"))
    if (len(rows) + 1) * (len(cols) + 1) > MAX_GRID:
        why = f"a sheet of {len(rows)} rows and {len(cols)} columns has more than {MAX_GRID:,} pictures"
        raise UsageError("cannot make the mixing sheet", why, "use fewer seeds")
    return Mix(tuple(rows), tuple(cols), parse_layers(request.styles, "--styles"))


def resolve(request: SampleRequest) -> SampleRequest:
    """The checked request with every default filled in: what --dry-run prints. Raises UsageError."""
    found = plan(request)
    return replace(
        request,
        num=len(found.seeds) or None,
        seeds=seed_text(found.seeds) or None,
        seed=found.seeds[0] if found.seeds else request.seed,
        rows=seed_text(found.mix.rows) if found.mix else None,
        cols=seed_text(found.mix.cols) if found.mix else None,
        format=found.format,
        out=str(found.path or "-"),
    )


def steps_of(request: SampleRequest, columns: int) -> int:
    """How many values a swept code takes."""
    return 1 if request.sweep is None else columns or SWEPT


def _each(request: SampleRequest, columns: int) -> int | None:
    """How many pictures there are of a seed; None where only the model knows how many classes it has."""
    classes = class_count(request.classes) if request.classes else 1
    return None if classes is None else classes * steps_of(request, columns)


def _seeds(request: SampleRequest, columns: int, rows: int) -> tuple[int, ...]:
    cells = columns * rows
    given = [
        name
        for name, value in (("-n", request.num), ("--seeds", request.seeds), ("--latents", request.latents or None))
        if value is not None
    ]
    if request.sweep is not None and request.latents:
        raise UsageError("cannot use --sweep with --latents", "a sweep begins at seeds", "leave one of them out")
    if len(given) > 1:
        raise UsageError(f"cannot use {' and '.join(given)} together", "each says which images to make", "keep one")
    if request.latents:
        return ()
    if request.seeds is not None:
        seeds = tuple(dict.fromkeys(parse_seeds(request.seeds)))
    else:
        each = _each(request, columns)
        num = request.num if request.num is not None else max(1, -(-cells // each) if each else 1)
        if not 1 <= num <= MAX_SEEDS:
            raise UsageError(f"cannot use --num {num}", f"it must be 1 to {MAX_SEEDS:,}", "split it over several runs")
        if not 0 <= request.seed <= MAX_SEED - num + 1:
            raise UsageError(f"cannot use --seed {request.seed}", f"seeds are 0 to {MAX_SEED}")
        seeds = tuple(range(request.seed, request.seed + num))
    each = _each(request, columns)
    if each is not None and cells > (made := len(seeds) * each):
        why = f"it holds {cells} images and {made} are asked for"
        raise UsageError(f"cannot fill --grid {request.grid}", why, f"use -n {-(-cells // each)}, or a smaller grid")
    return seeds


def _grid(text: str) -> tuple[int, int]:
    columns, x, rows = text.lower().partition("x")
    if not (x and columns.isascii() and columns.isdigit() and rows.isascii() and rows.isdigit()):
        raise UsageError(f"cannot use --grid {quoted(text)}", "it is not columns x rows", "write it as --grid 8x8")
    if not 1 <= int(columns[:9]) * int(rows[:9]) <= MAX_GRID:
        raise UsageError(f"cannot use --grid {quoted(text)}", f"a grid holds 1 to {MAX_GRID:,} images")
    return int(columns), int(rows)


def _target(request: SampleRequest) -> tuple[str, Path | None]:
    if request.out is None:
        return "folder", default_folder(request.model, "sample")
    if request.out == "-":
        return "stream", None
    if not request.out.strip():
        raise UsageError("cannot use -o ''", "the name is empty")
    path = Path(request.out).expanduser()
    suffix = path.suffix.lower()
    if request.out.endswith("/") or path.is_dir() or (suffix not in SUFFIXES and suffix not in (".zip", *OTHER_IMAGES)):
        return "folder", path
    if suffix in OTHER_IMAGES:
        known = ", ".join([*SUFFIXES, ".zip"])
        raise UsageError(f"cannot write {quoted(path)}", f"sample writes {known} or a folder", "choose one of them")
    if suffix == ".zip":
        return "zip", path
    if request.format is not None and request.format != SUFFIXES[suffix]:
        why = f"-o {quoted(path.name)} says {SUFFIXES[suffix]}"
        raise UsageError(f"cannot use --format {request.format}", why, "leave one of them out")
    return "file", path
