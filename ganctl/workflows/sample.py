"""Sampling: seeds or latents in, one picture each out. A picture depends on model, seed and options only."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganctl.errors import UsageError, quoted
from ganctl.io.files import atomic_write
from ganctl.io.outputs import npy_bytes, request_for, request_in, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.seeds import seed_text
from ganctl.workflows.generate import half_precision, load_sampler, pictures
from ganctl.workflows.pipeline import in_order
from ganctl.workflows.sample_items import planned_items, seed_items
from ganctl.workflows.sample_mix import mixed_layers, mixing_sheet
from ganctl.workflows.sample_plan import (
    DEFAULT_MODEL,
    SUFFIXES,
    Item,
    Plan,
    SampleRequest,
    plan,
    resolve,
    seed_item,
)
from ganctl.workflows.styles import pick_classes

if TYPE_CHECKING:
    import numpy as np

    from ganctl.load import Model
    from ganctl.nn.drawing import Latent

__all__ = ["DEFAULT_MODEL", "SampleReport", "SampleRequest", "plan", "resolve", "run"]

Made = tuple[Item, "Latent | None", "np.ndarray | None"]
"""An item, its latent, and its picture uint8 [H, W, C]; None when it is there already."""


@dataclass(frozen=True)
class SampleReport:
    """What was made. `paths` in seed order."""

    model: str
    revision: str
    paths: tuple[Path, ...]
    written: int
    existing: int


def run(request: SampleRequest, reporter: Reporter = SILENT, stdout: IO[bytes] | None = None) -> SampleReport:
    """Makes the pictures of a request; those that are there from the same request are left and reported.

    `stdout` takes the bytes of `out='-'`: an image, or a tar of several. Raises UsageError, WeightsError, DeviceError,
    and GanctlError when a network gives NaN.
    """
    todo = plan(request)
    if done := _all_there(todo, reporter):
        return done
    model = load_sampler(request.model, request.device, reporter)
    return _Run(todo, model, reporter, stdout).go()


def _all_there(todo: Plan, reporter: Reporter) -> SampleReport | None:
    """The report of a request that needs no work, found without loading torch; None when there is work."""
    request = todo.request
    # What a half precision comes to, only the device can tell; how many classes there are, only the network.
    if todo.kind == "stream" or request.latents or request.overwrite or request.dtype in ("fp16", "bf16"):
        return None
    if todo.mix or request.classes is not None or request.sweep is not None:
        return None
    items = [seed_item(s) for s in todo.seeds]
    targets = [todo.path] if todo.kind == "zip" or todo.sheet_only else [todo.file(i, todo.format) for i in items]
    if not all(p and p.exists() for p in targets):
        return None
    from ganctl.load import open_bundle

    bundle, revision = open_bundle(request.model, reporter=reporter)
    # A file of the same request knows whether its model is a style-based one.
    styled = targets[0] is not None and "trunc" in (request_in(targets[0]) or {})
    if request.style.options() and not styled:
        return None
    records = _Records(todo, revision, items, request.style.record(bundle.card) if styled else {})
    if records.overall() != "exists":
        return None
    results = list(records.results("exists"))
    for result in results:
        reporter.result(result)
    return SampleReport(bundle.model, revision, tuple(Path(r["path"]) for r in results), 0, len(results))


class _Records:
    """Every output of a plan with the request it carries."""

    def __init__(
        self, todo: Plan, revision: str, items: Sequence[Item], style: Mapping[str, Any], half: str | None = None
    ) -> None:
        self.todo, self.revision, self.items, self.half = todo, revision, items, half
        self.style = style
        """What a style-based model's pictures keep of their truncation and noise; empty of another's."""
        self.model = todo.request.model

    def image(self, item: Item) -> dict[str, Any]:
        r = self.todo.request
        return request_for(
            "sample",
            self.model,
            self.revision,
            seed=item.seed,
            **self.latents([item]),
            **self.drawn(item),
            format=self.todo.format,
            size=r.size,
            quality=r.quality if self.todo.format in ("jpg", "webp") else None,
            dtype=self.half,
        )

    def drawn(self, item: Item) -> dict[str, Any]:
        """Class, truncation and noise; a w from a file has the first two in it."""
        style = self.style if item.w is None else {**self.style, "trunc": None, "trunc_cutoff": None}
        return {"class": item.c, **style}

    def latents(self, items: Sequence[Item]) -> dict[str, Any]:
        """A digest of the latents of items that have no seed."""
        data = [t.numpy().tobytes() for i in items for t in (i.z, i.w, *i.maps.values()) if t is not None]
        return {"z": hashlib.sha256(b"".join(data)).hexdigest()[:32] if data else None}

    def latent(self, item: Item) -> dict[str, Any]:
        made = {**self.latents([item]), **self.drawn(item), "noise_mode": None}
        return request_for("sample", self.model, self.revision, seed=item.seed, **made, format="npz")

    def whole(self) -> dict[str, Any]:
        """The request of a zip or a grid: one image's, with all seeds."""
        r = self.todo.request
        one = self.image(self.items[0]) | {"seed": None, "seeds": self.seeds(), **self.latents(self.items)}
        one |= {"class": r.classes, "grid": r.grid}
        if self.todo.kind == "zip":
            one |= {"subdirs": r.subdirs, "save_latents": r.save_latents}
        return {k: v for k, v in one.items() if v is not None}

    def seeds(self) -> str | None:
        return None if self.todo.request.latents else seed_text(self.todo.seeds)

    def grid(self) -> dict[str, Any]:
        return self.whole() | {"format": self.sheet().suffix.lstrip(".")}

    def sheet(self) -> Path:
        if self.todo.sheet_only:
            return self.todo.path or Path(f"grid.{self.todo.format}")
        return (self.todo.path or Path()) / "grid.png" if self.todo.kind == "folder" else Path("grid.png")

    def status(self, item: Item) -> str:
        """Of an image and its latent together; raises when another request wrote either."""
        overwrite = self.todo.request.overwrite
        found = [status_of(self.todo.file(item, self.todo.format), self.image(item), overwrite)]
        if self.todo.request.save_latents:
            found.append(status_of(self.todo.file(item, "npz"), self.latent(item), overwrite))
        return "write" if "write" in found else "exists"

    def sheet_status(self) -> str:
        return status_of(self.sheet(), self.grid(), self.todo.request.overwrite) if self.todo.columns else "exists"

    def overall(self) -> str:
        if self.todo.kind == "zip" and self.todo.path:
            return status_of(self.todo.path, self.whole(), self.todo.request.overwrite)
        found = [] if self.todo.sheet_only else [self.status(i) for i in self.items]
        return "write" if "write" in [*found, self.sheet_status()] else "exists"

    def results(self, status: str) -> Iterator[dict[str, Any]]:
        """The JSON objects of a whole plan in which everything has one status."""
        if self.todo.kind == "zip":
            which = {"num": len(self.items)} | ({"seeds": self.seeds()} if self.seeds() else {})
            yield {"path": str(self.todo.path), **which, **self.stamp(status)}
            return
        if not self.todo.sheet_only:
            yield from (self.result(i, status) for i in self.items)
        if self.todo.columns:
            yield self.sheet_result(status)

    def result(self, item: Item, status: str) -> dict[str, Any]:
        which = {"seed": item.seed} if item.seed is not None else {"input": item.source}
        drawn = {
            key: value for key, value in self.drawn(item).items() if key in ("class", "trunc") and value is not None
        }
        return {"path": str(self.todo.file(item, self.todo.format)), **which, **drawn, **self.stamp(status)}

    def sheet_result(self, status: str) -> dict[str, Any]:
        return {"path": str(self.sheet()), "grid": self.todo.request.grid, **self.stamp(status)}

    def mix_path(self) -> Path:
        return (self.todo.path or Path()) / "mix.png" if self.todo.kind == "folder" else self.todo.path or Path("-")

    def mix(self, layers: Sequence[int]) -> dict[str, Any]:
        r, mix = self.todo.request, self.todo.mix
        assert mix is not None
        seeds = {"rows": seed_text(mix.rows), "cols": seed_text(mix.cols), "styles": seed_text(layers)}
        form = SUFFIXES.get(self.mix_path().suffix.lower(), self.todo.format)
        shown = {"format": form, "size": r.size, "quality": r.quality if form != "png" else None, "dtype": self.half}
        return request_for("sample", self.model, self.revision, **seeds, **{"class": r.classes}, **self.style, **shown)

    def stamp(self, status: str) -> dict[str, Any]:
        return {"model": shown_name(self.model), "revision": self.revision, "status": status}


class _Run:
    """One run over a loaded model."""

    def __init__(self, todo: Plan, model: "Model", reporter: Reporter, stdout: IO[bytes] | None) -> None:
        self.todo, self.model, self.reporter, self.stdout = todo, model, reporter, stdout
        self.drawing = todo.request.style.drawing(model)
        self.classes = pick_classes(todo.request.classes, model)
        self.half = half_precision(model, todo.request.dtype, reporter)
        self.items = planned_items(todo, model, self.classes)
        style = todo.request.style.record(model.card) if self.drawing else {}
        self.records = _Records(todo, model.revision, self.items, style, self.half)
        self.cells = self.items[: todo.columns * todo.rows]
        self.paths: list[Path] = []
        self.written = self.existing = 0

    def go(self) -> SampleReport:
        if self.todo.mix:
            self._mixing()
        elif self.todo.kind == "stream":
            self._stream()
        elif self.todo.kind == "zip":
            self._zip()
        elif self.todo.sheet_only:
            self._sheet()
        else:
            self._files()
        return SampleReport(self.model.model, self.model.revision, tuple(self.paths), self.written, self.existing)

    def _mixing(self) -> None:
        from ganctl.io.images import encode, grid

        mix = self.todo.mix
        assert mix is not None
        layers = mixed_layers(mix, self.model)
        if self.classes and len(self.classes) > 1:
            what = f"cannot use --class {quoted(self.todo.request.classes)} with --rows"
            raise UsageError(what, f"a mixing sheet takes one class, these are {len(self.classes)}")
        path, record = self.records.mix_path(), self.records.mix(layers)
        stream = self.todo.kind == "stream"
        status = "written" if stream or status_of(path, record, self.todo.request.overwrite) == "write" else "exists"
        if status == "written":
            cells = mixing_sheet(mix, layers, self._seed_latent, self._drawn)
            sheet = grid([self._sized(cell) for cell in cells], len(mix.cols) + 1)
            data = encode(sheet, record["format"], self.todo.request.quality, record)
            if stream:
                self._to_stdout(data)
                return
            with atomic_write(path) as f:
                f.write(data)
        told = {key: record[key] for key in ("rows", "cols", "styles", "class", "trunc") if key in record}
        self._tell({"path": str(path), **told, **self.records.stamp(status)})

    def _seed_latent(self, seed: int) -> "Latent":
        return self._latent_of(seed_items([seed], self.model, self.classes)[0])

    def _latent_of(self, item: Item) -> "Latent":
        from ganctl.nn.drawing import Latent

        z = self.model.net.prior([item.number])[0] if item.z is None and item.w is None else item.z
        return Latent(item.number, z, item.c, item.w, item.maps)

    def _drawn(self, latents: "Iterable[Latent]") -> "Iterator[tuple[Latent, np.ndarray]]":
        batch = self.todo.request.batch_size
        return pictures(self.model, latents, drawing=self.drawing, batch=batch, half=self.half, reporter=self.reporter)

    def _files(self) -> None:
        # Everything is checked before anything is computed: a refused overwrite leaves no half of a result behind.
        status = {i.name: self.records.status(i) for i in self.items}
        sheet = self.records.sheet_status()
        shown = {i.name for i in self.cells} if sheet == "write" else set()
        made = self._images([i for i in self.items if i.name in shown or status[i.name] == "write"])
        cells: list[np.ndarray] = []

        def work() -> Iterator[Made]:
            for item in self.items:
                latent, pixels = next(made) if item.name in shown or status[item.name] == "write" else (None, None)
                if item.name in shown and pixels is not None:
                    cells.append(pixels)
                yield (item, latent, pixels) if status[item.name] == "write" else (item, None, None)

        # Waiting for the disk takes longer than a small picture: it happens while the next ones are computed.
        for result in in_order(self._write, work()):
            self._tell(result)
        if self.todo.columns:
            if sheet == "write":
                self._write_sheet(cells)
            self._tell(self.records.sheet_result("written" if sheet == "write" else "exists"))

    def _sheet(self) -> None:
        status = self.records.sheet_status()
        if status == "write":
            self._write_sheet([pixels for _, pixels in self._images(self.cells)])
        self._tell(self.records.sheet_result("written" if status == "write" else "exists"))

    def _zip(self) -> None:
        from ganctl.io.archives import zip_writer
        from ganctl.io.arrays import npz_bytes

        assert self.todo.path
        status = self.records.overall()
        if status == "write":
            cells: list[np.ndarray] = []
            with zip_writer(self.todo.path, request=self.records.whole()) as add:
                for item, (latent, pixels) in zip(self.items, self._images(self.items), strict=True):
                    add(self.todo.file(item, self.todo.format).as_posix(), self._encode(item, pixels))
                    if self.todo.request.save_latents:
                        add(self.todo.file(item, "npz").as_posix(), npz_bytes(self._arrays(latent)))
                    if len(cells) < len(self.cells):
                        cells.append(pixels)
                if cells:
                    add("grid.png", self._encode_sheet(cells))
        self._tell(*self.records.results("written" if status == "write" else "exists"))

    def _stream(self) -> None:
        from ganctl.io.archives import tar_writer

        _open(self.stdout)
        if self.todo.columns:
            self._to_stdout(self._encode_sheet([pixels for _, pixels in self._images(self.cells)]))
        elif len(self.items) == 1:
            for _, pixels in self._images(self.items):
                self._to_stdout(self._encode(self.items[0], pixels))
        else:
            with tar_writer(_open(self.stdout)) as add:
                for item, (_, pixels) in zip(self.items, self._images(self.items), strict=True):
                    add(self.todo.file(item, self.todo.format).as_posix(), self._encode(item, pixels))
            _open(self.stdout).flush()
        self.written = len(self.items)

    def _to_stdout(self, data: bytes) -> None:
        _open(self.stdout).write(data)
        _open(self.stdout).flush()
        self.written = 1

    def _images(self, items: list[Item]) -> "Iterator[tuple[Latent, np.ndarray]]":
        """(the latent, uint8 [H, W, C]) of each item, in order."""
        for done, (latent, pixels) in enumerate(self._drawn(map(self._latent_of, items)), 1):
            self.reporter.progress("sample", done, len(items))
            yield latent, self._sized(pixels)

    def _sized(self, pixels: "np.ndarray") -> "np.ndarray":
        if self.todo.request.size is None:
            return pixels
        from ganctl.io.images import resize

        h, w = pixels.shape[:2]
        scale = self.todo.request.size / min(h, w)
        return resize(pixels, (max(1, round(h * scale)), max(1, round(w * scale))))

    def _write(self, made: Made) -> dict[str, Any]:
        """Writes what an item still lacks, its latent before its picture. Runs in a thread."""
        item, latent, pixels = made
        if latent is None or pixels is None:
            return self.records.result(item, "exists")
        from ganctl.io.arrays import write_npz

        if self.todo.request.save_latents:
            write_npz(self.todo.file(item, "npz"), self._arrays(latent), self.records.latent(item))
        with atomic_write(self.todo.file(item, self.todo.format)) as f:
            f.write(self._encode(item, pixels))
        return self.records.result(item, "written")

    def _encode(self, item: Item, pixels: "np.ndarray") -> bytes:
        from ganctl.io.images import encode

        record = self.records.image(item)
        if self.todo.format == "npy":
            return npy_bytes(pixels, record)
        return encode(pixels, self.todo.format, self.todo.request.quality, record)

    def _write_sheet(self, cells: "Sequence[np.ndarray]") -> None:
        with atomic_write(self.records.sheet()) as f:
            f.write(self._encode_sheet(cells))

    def _encode_sheet(self, cells: "Sequence[np.ndarray]") -> bytes:
        from ganctl.io.images import encode, grid

        form = SUFFIXES[self.records.sheet().suffix.lower()]
        return encode(grid(cells, self.todo.columns), form, self.todo.request.quality, self.records.grid())

    def _arrays(self, latent: "Latent") -> "dict[str, np.ndarray]":
        """What --save-latents keeps: z and, of a style-based model, w, as they made the picture."""
        import numpy as np

        made = {"z": latent.z, "w": latent.w}
        arrays = {name: tensor.float().numpy()[None] for name, tensor in made.items() if tensor is not None}
        if latent.c is not None:
            arrays["class"] = np.array(latent.c)
        name = shown_name(self.todo.request.model)
        return {**arrays, "model": np.array(name), "revision": np.array(self.model.revision)}

    def _tell(self, *results: dict[str, Any]) -> None:
        for result in results:
            self.written += result["status"] == "written"
            self.existing += result["status"] == "exists"
            self.paths.append(Path(result["path"]))
            self.reporter.result(result)


def _open(stdout: IO[bytes] | None) -> IO[bytes]:
    if stdout is None:
        raise UsageError("cannot write to -", "no stream was given")
    return stdout
