"""`dataset make`: images from anywhere as a data set of one size, in NVIDIA's layout or as WebDataset."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import GanctlError, PartialError, UsageError, quoted
from ganctl.io.files import atomic_folder, atomic_write, read_regular
from ganctl.io.limits import MAX_LIST_BYTES
from ganctl.io.listing import INDEX, ImageRef, no_images, scan
from ganctl.io.outputs import check_writable, settle, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.shards import is_there, shard_names
from ganctl.io.threads import ordered

if TYPE_CHECKING:
    import numpy as np

    from ganctl.data.labels import Classes
    from ganctl.io.idx import IdxImage

Transform = Literal["center-crop", "center-crop-wide", "pad"]
MAX_SIDE = 16384
"""Of a picture that is asked for."""
REQUEST = "ganctl"
"""The key of `dataset.json` that holds the request."""
MADE = re.compile(r"\d{5}|dataset\.json")
"""What stands in a folder of this layout."""


@config
class DatasetRequest:
    source: str
    """Folder, zip, tar, several tars or IDX file."""
    out: str
    """A folder, x.zip, x.tar, or a pattern of tars such as x-{000..007}.tar."""
    resolution: str | None = None
    """WxH, or one number for both; None: as they are."""
    transform: Transform | None = None
    """How a picture comes to have the resolution's proportions; None: center-crop."""
    labels: Literal["folders", "json"] | None = None
    """Where classes come from; None: as in training."""
    max_images: int | None = None
    """The first N only."""
    fail_fast: bool = False
    overwrite: bool = False


@config
class DatasetReport:
    paths: tuple[str, ...]
    images: int
    failed: int


@dataclass(frozen=True)
class Source:
    """What there is: images with their classes and captions, and what was left out."""

    items: "list[ImageRef] | list[IdxImage]"
    classes: "Classes"
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Form:
    """What every picture becomes."""

    width: int
    height: int
    channels: int


@dataclass
class Failures:
    """Images that could not be read: told as they come, and once more at the end."""

    reporter: Reporter
    fail_fast: bool
    found: list[tuple[str, GanctlError]] = field(default_factory=list)

    def add(self, name: str, e: GanctlError) -> None:
        self.found.append((name, e))
        self.reporter.result({"input": name, "status": "failed", "error": e.why or e.message})
        if self.fail_fast:
            raise PartialError("stopped at the first image that failed", e.message, "nothing was written")


def check(request: DatasetRequest) -> list[Path]:
    """What can be refused before an image is read: options, paths, permissions. Gives the files or folder to write."""
    size_of(request.resolution)
    if request.transform and not request.resolution:
        hint = "for example --resolution 256x256"
        raise UsageError(f"cannot use --transform {request.transform}", "it needs a size", hint)
    if request.max_images is not None and request.max_images < 1:
        raise UsageError(f"cannot use --max-images {request.max_images}", "it must be 1 or more")
    if not is_there(request.source):
        raise UsageError(f"cannot read {quoted(request.source)}", "there is no such file or folder")
    if not request.out.strip():
        raise UsageError("nowhere to write", "no folder, zip or tar is given", "pass -o DEST")
    out = Path(request.out)
    names = shard_names(request.out) if out.suffix == ".tar" and not out.exists() else None
    paths = [Path(name) for name in names or (request.out,)]
    for path in paths:
        check_writable(path, folder=path.suffix.lower() not in (".zip", ".tar"))
    sources = {Path(name).resolve() for name in shard_names(request.source) or (request.source,)}
    inside = any(source.is_dir() and source in path.resolve().parents for source in sources for path in paths)
    if inside or any(path.resolve() in sources for path in paths):
        why = "it lies inside the source" if inside else "it is the source"
        raise UsageError(f"cannot write {quoted(request.out)}", why, "choose another place with -o")
    return paths


def size_of(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `256x128` or `256`. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:[xX×]([1-9]\d{0,4}))?", text.strip())
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= max(size) <= MAX_SIDE:
        why = f"it is no WIDTHxHEIGHT of at most {MAX_SIDE} pixels"
        raise UsageError(f"cannot use --resolution {quoted(text)}", why, "for example --resolution 256x256")
    return size


def run(request: DatasetRequest, reporter: Reporter = SILENT) -> DatasetReport:
    """Writes the data set: each file, or the folder, appears when it is whole. Results: one object for each.

    Raises UsageError (nothing to read, refused overwrite), or PartialError when some images failed and the others were
    written.
    """
    paths = check(request)
    source = open_source(request, reporter)
    wanted = _record(request, source)
    kind = paths[0].suffix.lower()
    if len(paths) > len(source.items):
        raise UsageError(f"cannot make {len(paths)} tars of {len(source.items)} images", "each needs one", "name fewer")
    there = [_is_there(path, kind, wanted, request.overwrite) for path in paths]
    failures, form, total = Failures(reporter, request.fail_fast), None, 0
    if not all(there):
        form = form_of(source, request)
        _tell(form, source, request, reporter)
    bounds = [i * len(source.items) // len(paths) for i in range(len(paths) + 1)]
    for i, path in enumerate(paths):
        result: dict[str, Any] = {"path": str(path), "status": "exists"}
        if not there[i]:
            assert form
            rows = range(bounds[i], bounds[i + 1])
            pictures = _pictures(source, rows, form, request, failures)
            count = _write(path, kind, wanted, source, _shown(pictures, bounds[i], len(source.items), reporter))
            made = {"images": count, "resolution": [form.width, form.height], "channels": form.channels}
            result |= {"status": "written", **made, "classes": len(source.classes.names)}
            total += count
        reporter.result(result)
    if failures.found:
        name, e = failures.found[0]
        what = f"{len(failures.found)} of {len(source.items)} images failed"
        raise PartialError(what, f"the first: {quoted(name)}: {e.why or e.message}", "the others are written")
    return DatasetReport(paths=tuple(map(str, paths)), images=total, failed=len(failures.found))


def open_source(request: DatasetRequest, reporter: Reporter = SILENT) -> Source:
    """The images and their classes, in order; what is left out is told. Raises UsageError: none, or no classes."""
    from ganctl.data.decode import some
    from ganctl.data.idx import find_idx, labels_beside
    from ganctl.data.labels import Classes, classes_of, numbered
    from ganctl.io.idx import idx_images

    if idx := find_idx(Path(request.source)):
        found = idx_images(idx)
        labels = labels_beside(idx, len(found))
        classes = Classes() if labels is None else numbered(labels[: request.max_images].tolist())
        source = Source(found[: request.max_images], classes, ())
    else:
        listing = scan(request.source)
        if not listing.images:
            raise no_images(request.source, listing)
        refs = list(listing.images[: request.max_images])
        source = Source(refs, classes_of(listing, refs, request.labels), listing.skipped)
    for note in source.classes.notes:
        reporter.note(note)
    if request.labels and source.classes.c is None:
        why = (
            "the images are not in two or more sub-folders" if request.labels == "folders" else "none are written down"
        )
        hint = "leave --labels out to take whatever classes there are"
        raise UsageError(f"no classes in {quoted(request.source)}", why, hint)
    if source.skipped:
        what = f"{len(source.skipped)} files of {quoted(request.source)} left out"
        reporter.warn(what, some(source.skipped), "")
    return source


def form_of(source: Source, request: DatasetRequest) -> Form:
    """Size and channels of every picture, from the headers: grey where all are grey.

    Raises UsageError where they have several sizes and none is asked for.
    """
    from ganctl.io.images import look

    sizes, grey = Counter[tuple[int, int]](), True
    for item in source.items:
        pixels = getattr(item, "pixels", None)
        if pixels is not None:
            sizes[pixels.shape[1], pixels.shape[0]] += 1
            grey = grey and pixels.shape[2] == 1
        elif isinstance(item, ImageRef) and (seen := look(_bytes(item))):
            sizes[seen.width, seen.height] += 1
            grey = grey and seen.grey
    wanted = size_of(request.resolution)
    if wanted is None:
        if len(sizes) > 1:
            told = ", ".join(f"{n} of {w}x{h}" for (w, h), n in sizes.most_common(3))
            more = f" and {len(sizes) - 3} other sizes" if sizes.keys() - dict(sizes.most_common(3)).keys() else ""
            hint = "choose one: --resolution 256x256"
            raise UsageError(f"{quoted(request.source)} holds images of several sizes", f"{told}{more}", hint)
        # Of no image can the header be read: each one will say why.
        wanted = next(iter(sizes), (1, 1))
    width, height = wanted
    return Form(width, max(wanted) if request.transform == "center-crop-wide" else height, 1 if grey else 3)


def _bytes(item: ImageRef) -> bytes:
    try:
        return item.read()
    except UsageError:  # it comes up again when it is decoded
        return b""


def fitted(pixels: "np.ndarray", size: tuple[int, int], transform: Transform | None) -> "np.ndarray":
    """uint8 [H,W,C] as `size` (width, height) has it.

    center-crop: the largest centred part of those proportions. center-crop-wide: the same, between black bars above
    and below that make it a square. pad: all of it, between black bars.
    """
    import numpy as np

    from ganctl.io.images import center_crop_resize, resize

    width, height = size
    if transform == "pad":
        h, w = pixels.shape[:2]
        scale = min(width / w, height / h)
        inner = max(1, min(height, round(h * scale))), max(1, min(width, round(w * scale)))
        picture, canvas = resize(pixels, inner), (height, width)
    else:
        picture = center_crop_resize(pixels, (height, width))
        canvas = (max(size), max(size)) if transform == "center-crop-wide" else (height, width)
    if picture.shape[:2] == canvas:
        return picture
    full = np.zeros((*canvas, pixels.shape[2]), np.uint8)
    top, left = (canvas[0] - picture.shape[0]) // 2, (canvas[1] - picture.shape[1]) // 2
    full[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return full


def _pictures(
    source: Source, rows: range, form: Form, request: DatasetRequest, failures: Failures
) -> Iterator[tuple[int, bytes | None]]:
    """(place, PNG) of each picture in order, made in threads; None of those that fail."""
    from ganctl.io.images import BadImage, encode, read_image, to_channels

    size = size_of(request.resolution)

    def make(i: int) -> bytes | GanctlError:
        item = source.items[i]
        try:
            pixels = getattr(item, "pixels", None)
            if isinstance(item, ImageRef):
                pixels = read_image(item.read(), name=item.label).pixels
            assert pixels is not None
            # Transparency goes first, or black bars would become white.
            flat = to_channels(pixels, form.channels)
            made = flat if size is None else fitted(flat, size, request.transform)
            if made.shape[:2] != (form.height, form.width):
                raise BadImage(
                    f"cannot use {quoted(item.label)}", f"it is {made.shape[1]}x{made.shape[0]} when decoded"
                )
            return encode(made)
        except BadImage as e:
            return e

    workers = min(8, os.cpu_count() or 1)
    with closing(ordered(make, rows, workers, ahead=4 * workers)) as results:
        for i, got in zip(rows, results, strict=True):
            if isinstance(got, GanctlError):
                failures.add(source.items[i].label, got)
            yield i, None if isinstance(got, GanctlError) else got


def _shown(
    pictures: Iterator[tuple[int, bytes | None]], first: int, total: int, reporter: Reporter
) -> Iterator[tuple[int, bytes]]:
    """Those that did not fail. Raises UsageError when all did."""
    good, done = 0, 0
    for i, data in pictures:
        done += 1
        reporter.progress("writing images", first + done, total)
        if data is not None:
            good += 1
            yield i, data
    if not good:
        raise UsageError("nothing to write", f"none of {done} images can be read", "choose other images")


def _write(
    path: Path, kind: str, wanted: Mapping[str, Any], source: Source, pictures: Iterator[tuple[int, bytes]]
) -> int:
    """One file, or the folder, of pictures; gives their number."""
    if kind == ".tar":
        return _write_tar(path, wanted, source, pictures)
    rows: list[tuple[str, int]] = []
    with _nvidia(path, kind, wanted) as add:
        count = 0
        for i, data in pictures:
            name = f"{count // 1000:05d}/img{count:08d}.png"
            add(name, data)
            count += 1
            if source.classes.c is not None:
                rows.append((name, int(source.classes.c[i])))
        index: dict[str, Any] = {"labels": rows or None}
        if rows:
            index["classes"] = list(source.classes.names)
        add(INDEX, json.dumps({**index, REQUEST: dict(wanted)}, ensure_ascii=False).encode())
    return count


@contextmanager
def _nvidia(path: Path, kind: str, wanted: Mapping[str, Any]) -> Iterator[Callable[[str, bytes], None]]:
    """`add(name, data)` for a zip or a folder."""
    from ganctl.io.archives import zip_writer

    if kind == ".zip":
        with zip_writer(path, request=wanted) as add:
            yield add
        return
    with atomic_folder(path) as temporary:

        def put(name: str, data: bytes) -> None:
            file = temporary / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)

        yield put


def _write_tar(path: Path, wanted: Mapping[str, Any], source: Source, pictures: Iterator[tuple[int, bytes]]) -> int:
    """Samples `00000000.png`, with `.cls`, `.json` where classes have names, and `.txt` where there is a caption."""
    from ganctl.data.labels import caption_of
    from ganctl.io.archives import tar_writer

    names, count = source.classes.names, 0
    with atomic_write(path) as stream, tar_writer(stream, request=wanted) as add:
        for i, data in pictures:
            add(f"{i:08d}.png", data)
            if source.classes.c is not None:
                k = int(source.classes.c[i])
                add(f"{i:08d}.cls", str(k).encode())
                if names[k] != str(k):
                    add(f"{i:08d}.json", json.dumps({"label": names[k]}, ensure_ascii=False).encode())
            item = source.items[i]
            if isinstance(item, ImageRef) and (caption := caption_of(item)):
                add(f"{i:08d}.txt", caption.encode())
            count += 1
    return count


def _record(request: DatasetRequest, source: Source) -> dict[str, Any]:
    """What made the data set: no folder of this machine is in it."""
    rows = [[item.name, item.size, item.mtime] for item in source.items]
    asked = {"resolution": request.resolution, "transform": request.transform, "labels": request.labels}
    return {
        "ganctl": __version__,
        "verb": "dataset",
        "source": Path(request.source).resolve().name,
        "listing": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "max_images": request.max_images,
        **asked,
    }


def _is_there(path: Path, kind: str, wanted: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the same request wrote it already. Raises UsageError when anything else is there."""
    if kind in (".zip", ".tar"):
        return status_of(path, wanted, overwrite) == "exists"
    if not path.exists() or not any(path.iterdir()):
        return False
    found = None
    try:
        found = json.loads(read_regular(path / INDEX, limit=MAX_LIST_BYTES))[REQUEST]
    except (UsageError, ValueError, KeyError, TypeError, RecursionError):
        found = None
    others = [p.name for p in path.iterdir() if not MADE.fullmatch(p.name)]
    if not isinstance(found, dict) or others:
        what = f"it holds {quoted(sorted(others)[0])}" if others else "it has no dataset.json of ganctl's"
        raise UsageError(f"cannot write {quoted(path)}", f"{what}, so it is no data set", "choose another folder")
    if overwrite:
        return False
    settle(path, found, wanted)
    return True


def _tell(form: Form, source: Source, request: DatasetRequest, reporter: Reporter) -> None:
    """One line of what is made, and what it will not be fit for."""
    classes = f", {len(source.classes.names)} classes" if source.classes.c is not None else ""
    colour = "grey" if form.channels == 1 else "RGB"
    reporter.note(f"{len(source.items)} images of {form.width}x{form.height}, {colour}{classes}")
    square = form.width == form.height and form.width & (form.width - 1) == 0
    if not square and not request.out.endswith(".tar"):
        reporter.note(f"NVIDIA's tools want squares whose side is a power of 2, and not {form.width}x{form.height}")
