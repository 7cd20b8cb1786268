"""`ganctl translate`: every image through a Translator, in its own size, in order."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import GanctlError, UsageError, quoted
from ganctl.io.files import atomic_write, sha256
from ganctl.io.images import encode, read_image, resize
from ganctl.io.limits import MAX_PIXELS
from ganctl.io.outputs import check_writable, default_folder, request_for, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.video import VIDEO_SUFFIXES, Video, need_av, read_video, write_video
from ganctl.workflows.generate import half_precision
from ganctl.workflows.pipeline import overlapped
from ganctl.workflows.targets import STREAM, Job, Tally, list_inputs, plan, refuse_clashes
from ganctl.workflows.translate_style import check_style, with_style
from ganctl.workflows.translate_tiles import check_tiles
from ganctl.workflows.translate_way import Way, find_way, finish

if TYPE_CHECKING:
    import numpy as np

    from ganctl.io.listing import Input
    from ganctl.load import Model

IMAGE_SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
VIDEO_OUTPUTS = {".mp4": "h264", ".webm": "vp9"}
OTHER_FILES = {".gif", ".bmp", ".tif", ".tiff", ".npz", ".npy", ".zip", ".tar", ".pdf", *VIDEO_SUFFIXES}
"""With -o, these mean a file and not a folder, though not one that can be written."""
BATCH_PIXELS = 1 << 20
MAX_BATCH = 16


@config
class TranslateRequest:
    model: str
    inputs: tuple[str, ...] = ()
    out: str | None = None
    """A file, a folder, '-' for standard output, or None for out/<model>/translate/."""
    size: str = "keep"
    """keep | N | WxH: of the picture the network sees and gives back."""
    tile: int = 0
    """Side of the pieces that larger pictures are translated in; 0: every picture whole."""
    tile_overlap: int = 32
    """Pixels that neighbouring tiles share, at least."""
    direction: Literal["AtoB", "BtoA"] | None = None
    """Of a model that translates both ways; None is AtoB."""
    cycle: bool = False
    """There and back: what comes out is the input's reconstruction, F(G(x))."""
    styles: tuple[str, ...] = ()
    """PICTURE[:WEIGHT] or SEED[:WEIGHT] each; the weighted mean of them is the style."""
    likes: tuple[str, ...] = ()
    """Pictures, or folders of them, that have a part in that mean of weight 1 each."""
    alpha: float | None = None
    """The style's share; the rest is each input's own. None is 1."""
    batch_size: int | None = None
    """Images of one size computed together on a GPU; None picks by size. On the CPU it is always one."""
    seed: int = 0
    format: Literal["keep", "png", "jpg", "webp"] = "png"
    suffix: str = ""
    """Added to every output's stem."""
    concat: bool = False
    """Input and output side by side; with `cycle` the reconstruction after them."""
    recursive: bool = True
    from_file: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    """fp16 and bf16 where the device has them; fp32 otherwise."""
    overwrite: bool = False
    fail_fast: bool = False


@config
class TranslateReport:
    written: int
    exists: int
    failed: int


@dataclass(frozen=True)
class Item:
    """One image on its way through. `error` set: it goes no further."""

    job: Job
    request: dict[str, Any] = field(default_factory=dict)
    status: str = "written"
    pixels: "np.ndarray | None" = None
    """uint8 [H, W, C]: the decoded and resized input, alpha included; later the finished output."""
    size: tuple[int, int] | None = None
    """(width, height) of the output, once it is known."""
    notes: tuple[str, ...] = ()
    """What was done to an odd input, in words."""
    ms: float = 0.0
    error: GanctlError | None = None
    data: bytes | None = None
    """The input's bytes where they were read already: standard input is read once."""


def run(request: TranslateRequest, reporter: Reporter = SILENT, *, stdout: IO[bytes] | None = None) -> TranslateReport:
    """Translates every input. `stdout` takes the image's bytes for out='-'.

    Raises UsageError (options, clashes, refused overwrite: before any work), PartialError when some inputs failed.
    """
    jobs = prepare(request, reporter)
    from ganctl.load import load
    from ganctl.protocols import Translator

    model = load(request.model, device=request.device, reporter=reporter)
    if not isinstance(model.net, Translator):
        what = f"cannot translate with {quoted(request.model)}"
        hint = "see: ganctl zoo list --task translate"
        raise UsageError(what, f"{quoted(model.model)} does not turn images into images", hint)
    way = find_way(model, request.direction, request.cycle, request.concat)
    way = replace(way, tile=request.tile, overlap=request.tile_overlap)
    parts = check_style(request.styles, request.likes, request.alpha)
    way = with_style(way, parts, request.alpha, model.name, model.device)
    half = half_precision(model, request.dtype, reporter)
    items = settle(jobs, request, model, way)
    work = Work(request, model, way, parse_size(request.size), half, stdout)
    tally = Tally(reporter, "translate", len(jobs), request.fail_fast)
    counts = Counter({"written": 0, "exists": 0, "failed": 0})
    notes = Counter[str]()
    for video, neighbours in groupby(items, lambda i: is_video(i.job)):
        if video:
            done = map(work.video, neighbours)
        else:
            done = overlapped(neighbours, work.decode, work.compute, work.encode, together=work.together)
        for item in done:
            counts["failed" if item.error else item.status] += 1
            notes.update(item.notes)
            tally.add(work.result(item), item.error)
    for note, count in notes.items():
        reporter.note(f"{count} of {len(jobs)} inputs: {note}")
    tally.close()
    return TranslateReport(**counts)


def prepare(request: TranslateRequest, reporter: Reporter = SILENT) -> list[Job]:
    """The cheap checks: model and inputs there, outputs named, no clash, a place to write. Raises UsageError."""
    check_name(request.model)
    parse_size(request.size)
    check_tiles(request.tile, request.tile_overlap)
    check_style(request.styles, request.likes, request.alpha)
    if re.search(r"[/\\\0]", request.suffix):
        raise UsageError(f"cannot use --suffix {quoted(request.suffix)}", "it becomes part of a file name")
    out = Path(request.out) if request.out not in (None, STREAM) else None
    single = out is not None and out.suffix.lower() in IMAGE_SUFFIXES.keys() | OTHER_FILES and not out.is_dir()
    folder = out or default_folder(request.model, "translate")
    inputs = list_inputs(request.inputs, request.from_file, request.recursive, None if single else folder, reporter)
    if request.out == STREAM or single:
        jobs = [only(inputs, request, out)]
        refuse_clashes(jobs)
    else:
        jobs = plan(inputs, folder, lambda name: output_name(name, request))
    if request.out != STREAM:
        check_writable(out if single and out else folder)
    if any(map(is_video, jobs)):
        need_av("cannot translate a video")
    return jobs


def only(inputs: "Sequence[Input]", request: TranslateRequest, out: Path | None) -> Job:
    """The one input of a file or of standard output. Raises UsageError for more, or a kind the name does not fit."""
    where = quoted(request.out)
    if len(inputs) != 1:
        raise UsageError(
            f"cannot write {len(inputs)} images to {where}", "it takes one image", "pass a folder: -o out/"
        )
    job = Job(inputs[0].ref, out)
    if out is None and is_video(job):
        raise UsageError("cannot write a video to standard output", "it is for one image", "pass a file: -o out.mp4")
    known = VIDEO_OUTPUTS if is_video(job) else IMAGE_SUFFIXES
    if out is not None and out.suffix.lower() not in known:
        kind = "a video" if is_video(job) else "an image"
        raise UsageError(f"cannot write {kind} to {where}", f"it is written as {', '.join(known)}")
    return job


def is_video(job: Job) -> bool:
    return Path(job.ref.name).suffix.lower() in VIDEO_SUFFIXES


def output_name(name: str, request: TranslateRequest) -> str:
    """photo.JPG → photo<suffix>.png, or its own extension with --format keep; a video becomes .mp4 or .webm."""
    stem, extension = Path(name).stem, Path(name).suffix
    if extension.lower() in VIDEO_SUFFIXES:
        extension = ".webm" if extension.lower() == ".webm" else ".mp4"
    elif request.format != "keep":
        extension = f".{request.format}"
    elif extension.lower() not in IMAGE_SUFFIXES:
        extension = ".png"
    return f"{stem}{request.suffix}{extension}"


def parse_size(size: str) -> tuple[int, int] | None:
    """'keep' → None; 'N' → (N, N); 'WxH' → (H, W). Raises UsageError."""
    if size == "keep":
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:[xX×]([0-9]{1,6}))?", size)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if width * height == 0:
        raise UsageError(
            f"cannot use --size {quoted(size)}", "it is none of keep, N, WxH", "for example --size 512x384"
        )
    if width * height > MAX_PIXELS:
        raise UsageError(f"cannot use --size {quoted(size)}", f"that is more than the limit of {MAX_PIXELS} pixels")
    return height, width


def settle(jobs: Sequence[Job], request: TranslateRequest, model: "Model", way: Way) -> list[Item]:
    """Which outputs are there already. Raises UsageError when one exists for another request."""
    items = []
    for job in jobs:
        item = Item(job)
        if job.path is not None and job.path.exists():
            try:
                item = read(item, request, model, way)
            except GanctlError as e:
                items.append(replace(item, error=e))
                continue
            exists = status_of(job.path, item.request, request.overwrite) == "exists"
            # Standard input can be read once; what a file holds is read again when its turn comes.
            keep = item.data if job.ref.source is None else None
            item = replace(item, data=keep, status="exists") if exists else replace(item, data=keep)
        items.append(item)
    return items


def read(item: Item, request: TranslateRequest, model: "Model", way: Way) -> Item:
    """The item with its bytes (a video's stay on the disk) and the request its output will carry."""
    from ganctl.nn.precision import computes_in

    path = item.job.ref.path
    if path is not None and is_video(item.job):
        data, digest = None, sha256(path)
    else:
        data = item.data if item.data is not None else item.job.ref.read()
        digest = hashlib.sha256(data).hexdigest()
    half = request.dtype in ("fp16", "bf16") and computes_in(request.dtype, model.device)
    made = request_for(
        "translate",
        request.model,
        model.revision,
        seed=request.seed,
        size=request.size,
        tile=[request.tile, request.tile_overlap] if request.tile else None,
        direction="BtoA" if request.direction == "BtoA" else None,
        cycle=request.cycle or None,
        **way.style,
        concat=request.concat,
        dtype=request.dtype if half else None,
        input_sha256=digest,
    )
    return replace(item, data=data, request=made)


@dataclass(frozen=True)
class Work:
    """The stages an image passes. Failures of one image travel with it; a failed write ends the run."""

    request: TranslateRequest
    model: "Model"
    way: Way
    size: tuple[int, int] | None
    half: str | None
    stdout: IO[bytes] | None

    def decode(self, item: Item) -> Item:
        """Bytes → upright pixels, resized, alpha kept."""
        if item.error or item.status == "exists":
            return item
        try:
            item = read(item, self.request, self.model, self.way)
            numbers = self.way.source.numbers
            picture = read_image(item.data or b"", name=item.job.label, numbers=numbers)
            size = self.size or picture.pixels.shape[:2]
            pixels = resize(picture.pixels, size, "nearest" if numbers else "lanczos")
            return replace(item, data=None, pixels=pixels, notes=picture.notes)
        except GanctlError as e:
            return replace(item, data=None, error=e)

    def together(self, group: Sequence[Item], item: Item) -> bool:
        """Whether the image may be computed in one batch with its neighbours: same size, and room for it."""
        first = group[0].pixels
        if self.request.tile:
            return False
        # On the CPU one by one: how a convolution splits its sums depends on the batch, and bytes must not.
        if self.model.device.type == "cpu" or first is None or item.pixels is None:
            return False
        if first.shape[:2] != item.pixels.shape[:2]:
            return False
        fits = min(MAX_BATCH, BATCH_PIXELS // (first.shape[0] * first.shape[1]))
        return len(group) < (self.request.batch_size or fits)

    def compute(self, group: Sequence[Item]) -> Sequence[Item]:
        """Translates a batch; one that fails is tried again image by image, so one image fails alone."""
        if group[0].pixels is None:
            return group
        start = time.perf_counter()
        try:
            outputs = self.translate([i.pixels for i in group if i.pixels is not None])
        except GanctlError as e:
            if len(group) > 1:
                return [done for item in group for done in self.compute([item])]
            return [replace(group[0], pixels=None, error=e)]
        ms = 1000 * (time.perf_counter() - start) / len(group)
        return [
            replace(
                item,
                pixels=finish(self.way.shown(item.pixels), self.way.split(out), self.request.concat),
                notes=item.notes + self.way.told(item.pixels),
                ms=ms,
            )
            for item, out in zip(group, outputs, strict=True)
            if item.pixels is not None
        ]

    def translate(self, images: "Sequence[np.ndarray]") -> "list[np.ndarray]":
        return self.way.translate(images, self.model.device, self.request.seed, self.half)

    def encode(self, item: Item) -> Item:
        if item.pixels is None:
            return item
        path = item.job.path
        kind = IMAGE_SUFFIXES[path.suffix.lower()] if path else self.stream_format
        try:
            data = encode(item.pixels, kind, request=item.request)
        except GanctlError as e:  # larger than the format can be
            return replace(item, pixels=None, error=e)
        if path is None:
            assert self.stdout is not None
            self.stdout.write(data)
            self.stdout.flush()
        else:
            with atomic_write(path) as f:
                f.write(data)
        return replace(item, pixels=None, size=(item.pixels.shape[1], item.pixels.shape[0]))

    @property
    def stream_format(self) -> str:
        return "png" if self.request.format == "keep" else self.request.format

    def video(self, item: Item) -> Item:
        """A whole video, frame by frame, at its rate; its sound is copied where the container takes it."""
        path, source_path = item.job.path, item.job.ref.path
        if item.error or item.status == "exists":
            return item
        assert path is not None and source_path is not None
        start = time.perf_counter()
        first: list[tuple[tuple[int, int], tuple[str, ...]]] = []
        try:
            if self.way.source.numbers:
                why = "the model takes label maps, and a video's pixels are colours"
                raise UsageError(f"cannot translate {quoted(source_path)}", why, "give it images")
            item = read(item, self.request, self.model, self.way)
            source = read_video(source_path)
            left_out = write_video(
                path,
                self.frames(source, first),
                fps=source.fps,
                codec=VIDEO_OUTPUTS[path.suffix.lower()],
                request=item.request,
                sound=source_path,
            )
        except GanctlError as e:
            return replace(item, error=e)
        notes = (f"its sound is left out: {path.suffix} does not take {left_out}",) if left_out else ()
        size, told = first[0]
        return replace(item, size=size, notes=notes + told, ms=1000 * (time.perf_counter() - start))

    def frames(self, source: Video, first: list[tuple[tuple[int, int], tuple[str, ...]]]) -> "Iterator[np.ndarray]":
        """Every frame translated; `first` is told the size of the first, and what was done to it."""
        for frame in source.frames:
            frame = resize(frame, self.size or frame.shape[:2])
            (out,) = self.translate([frame])
            done = finish(frame, self.way.split(out), self.request.concat)
            if not first:
                first.append(((done.shape[1], done.shape[0]), self.way.told(frame)))
            yield done
        if not first:
            raise UsageError("cannot translate the video", "it holds no pictures")

    def result(self, item: Item) -> dict[str, Any]:
        found: dict[str, Any] = {
            "path": str(item.job.path or STREAM),
            "input": item.job.label,
            "seed": self.request.seed,
            "model": shown_name(self.model.name),
            "revision": self.model.revision,
            "status": item.status,
        }
        if item.size is not None:
            found |= {"size": list(item.size), "ms": round(item.ms, 1)}
        if item.notes:
            found["notes"] = list(item.notes)
        return found
