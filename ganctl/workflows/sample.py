"""Sampling: seeds or latents in, one picture each out. A picture depends on model, seed and options only."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganctl.errors import DeviceError, UsageError, printable, quoted
from ganctl.io.outputs import npy_bytes, request_for, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.workflows.sample_plan import DEFAULT_MODEL, MAX_GRID, SUFFIXES, Item, Plan, SampleRequest, plan

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.load import Model

__all__ = ["DEFAULT_MODEL", "SampleReport", "SampleRequest", "plan", "run"]

AUTO_BATCH = 32


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
    from ganctl.load import load
    from ganctl.protocols import Sampler

    model = load(request.model, device=request.device, reporter=reporter)
    if not isinstance(model.net, Sampler):
        task = model.card.get("task", "another task")
        hint = "see: ganctl zoo list --task sample"
        raise UsageError(f"cannot sample from {quoted(request.model)}", f"it is a model for {printable(task)}", hint)
    if model.device.type == "cpu" and request.dtype in ("fp16", "bf16"):
        reporter.warn(f"--dtype {request.dtype} is not used", "on the CPU everything is computed in fp32", "")
        todo = replace(todo, request=replace(request, dtype="fp32"))
    return _Run(todo, model, reporter, stdout).go()


def _all_there(todo: Plan, reporter: Reporter) -> SampleReport | None:
    """The report of a request that needs no work, found without loading torch; None when there is work."""
    request = todo.request
    items = [Item(f"seed{s:04d}", s) for s in todo.seeds]
    targets = [todo.path] if todo.kind == "zip" or todo.sheet_only else [todo.file(i, todo.format) for i in items]
    if todo.kind == "stream" or request.latents or request.overwrite or not all(p and p.exists() for p in targets):
        return None
    from ganctl.load import open_bundle

    bundle, revision = open_bundle(request.model, reporter=reporter)
    records = _Records(todo, revision, items)
    if records.overall() != "exists":
        return None
    results = list(records.results("exists"))
    for result in results:
        reporter.result(result)
    return SampleReport(bundle.model, revision, tuple(Path(r["path"]) for r in results), 0, len(results))


class _Records:
    """Every output of a plan with the request it carries."""

    def __init__(self, todo: Plan, revision: str, items: Sequence[Item]) -> None:
        self.todo, self.revision, self.items = todo, revision, items
        self.model = todo.request.model

    def image(self, item: Item) -> dict[str, Any]:
        r = self.todo.request
        return request_for(
            "sample",
            self.model,
            self.revision,
            seed=item.seed,
            z=None if item.z is None else hashlib.sha256(item.z.numpy().tobytes()).hexdigest()[:32],
            format=self.todo.format,
            size=r.size,
            quality=r.quality if self.todo.format in ("jpg", "webp") else None,
            dtype=r.dtype if r.dtype in ("fp16", "bf16") else None,
        )

    def latent(self, item: Item) -> dict[str, Any]:
        return request_for("sample", self.model, self.revision, seed=item.seed, format="npz")

    def whole(self) -> dict[str, Any]:
        """The request of a zip or a grid: one image's, with all seeds."""
        one = self.image(self.items[0]) | {"seed": None, "seeds": _ranges(self.items), "grid": self.todo.request.grid}
        if self.todo.kind == "zip":
            one |= {"subdirs": self.todo.request.subdirs, "save_latents": self.todo.request.save_latents}
        return {k: v for k, v in one.items() if v is not None}

    def grid(self) -> dict[str, Any]:
        return self.whole() | {"format": Path(self.sheet()).suffix.lstrip(".")}

    def sheet(self) -> Path:
        if self.todo.sheet_only:
            return self.todo.path or Path("grid.png")
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

    def result(self, item: Item, status: str) -> dict[str, Any]:
        path = self.todo.file(item, self.todo.format)
        return {"path": str(path), "seed": item.seed} | self.stamp(status)

    def stamp(self, status: str) -> dict[str, Any]:
        return {"model": shown_name(self.model), "revision": self.revision, "status": status}

    def results(self, status: str) -> Iterator[dict[str, Any]]:
        """The JSON objects of a whole plan in which everything has one status."""
        if self.todo.kind == "zip":
            yield {"path": str(self.todo.path), "seeds": _ranges(self.items), "num": len(self.items)} | self.stamp(
                status
            )
            return
        if not self.todo.sheet_only:
            yield from (self.result(i, status) for i in self.items)
        if self.todo.columns:
            yield self.sheet_result(status)

    def sheet_result(self, status: str) -> dict[str, Any]:
        return {"path": str(self.sheet()), "grid": self.todo.request.grid} | self.stamp(status)


class _Run:
    """One run over a loaded model."""

    def __init__(self, todo: Plan, model: "Model", reporter: Reporter, stdout: IO[bytes] | None) -> None:
        self.todo, self.model, self.reporter, self.stdout = todo, model, reporter, stdout
        self.items = self._items()
        self.records = _Records(todo, model.revision, self.items)
        # On the CPU one by one: how a convolution splits its sums depends on the batch, and bytes must not.
        self.batch = 1 if model.device.type == "cpu" else todo.request.batch_size or AUTO_BATCH
        self.sheet: list[np.ndarray] = []
        self.paths: list[Path] = []
        self.written = self.existing = 0

    def go(self) -> SampleReport:
        if self.todo.kind == "stream":
            self._stream()
        elif self.todo.kind == "zip":
            self._zip()
        else:
            self._files()
        return SampleReport(self.model.model, self.model.revision, tuple(self.paths), self.written, self.existing)

    def _items(self) -> list[Item]:
        if not self.todo.request.latents:
            return [Item(f"seed{s:04d}", s) for s in self.todo.seeds]
        import torch

        from ganctl.io.latents import read_latents

        shape = tuple(self.model.net.prior([0]).shape[1:])
        name = shown_name(self.todo.request.model)
        files = read_latents(self.todo.request.latents, model=name, revision=self.model.revision, shape=shape)
        items = [
            Item(path.stem if len(z) == 1 else f"{path.stem}-{i:04d}", None, torch.from_numpy(row.copy()))
            for path, z in files
            for i, row in enumerate(z)
        ]
        names = [i.name for i in items]
        twice = sorted({n for n in names if names.count(n) > 1}) if len(names) <= MAX_GRID else []
        if twice:
            raise UsageError(f"two latents would be written as {quoted(twice[0])}", "their files have the same name")
        if self.todo.kind == "file" and len(items) != 1 and not self.todo.columns:
            raise UsageError(
                f"cannot write {len(items)} images to {quoted(self.todo.path)}", "one file holds one image"
            )
        return items

    def _files(self) -> None:
        # Everything is checked before anything is computed: a refused overwrite leaves no half of a result behind.
        only_sheet = self.todo.sheet_only
        status = {} if only_sheet else {i.name: self.records.status(i) for i in self.items}
        sheet = self.records.sheet_status()
        cells = self._cells() if self.todo.columns and sheet == "write" else []
        wanted = {i.name for i in self.items if status.get(i.name) == "write"} | {i.name for i in cells}
        made = self._images([i for i in self.items if i.name in wanted])
        for item in cells if only_sheet else self.items:
            if item.name in wanted:
                z, pixels = next(made)
                if len(self.sheet) < len(cells):
                    self.sheet.append(pixels)
                if status.get(item.name) == "write":
                    self._write(item, pixels, z)
            if not only_sheet:
                self._tell(self.records.result(item, "exists" if status[item.name] == "exists" else "written"))
        if self.todo.columns:
            if sheet == "write":
                self._write_sheet()
            self._tell(self.records.sheet_result("written" if sheet == "write" else "exists"))

    def _zip(self) -> None:
        from ganctl.io.archives import zip_writer
        from ganctl.io.arrays import npz_bytes

        assert self.todo.path
        if self.records.overall() == "write":
            cells = len(self._cells()) if self.todo.columns else 0
            with zip_writer(self.todo.path, request=self.records.whole()) as add:
                for item, (z, pixels) in zip(self.items, self._images(self.items), strict=True):
                    add(self.todo.file(item, self.todo.format).as_posix(), self._encode(item, pixels))
                    if self.todo.request.save_latents:
                        add(self.todo.file(item, "npz").as_posix(), npz_bytes(self._latent(z)))
                    if len(self.sheet) < cells:
                        self.sheet.append(pixels)
                if cells:
                    add("grid.png", self._encode_sheet())
            self._tell(*self.records.results("written"))
        else:
            self._tell(*self.records.results("exists"))

    def _stream(self) -> None:
        from ganctl.io.archives import tar_writer

        if self.stdout is None:
            raise UsageError("cannot write to -", "no stream was given")
        if self.todo.columns:
            self.sheet = [pixels for _, pixels in self._images(self._cells())]
            self.stdout.write(self._encode_sheet())
        elif len(self.items) == 1:
            for _, pixels in self._images(self.items):
                self.stdout.write(self._encode(self.items[0], pixels))
        else:
            with tar_writer(self.stdout) as add:
                for item, (_, pixels) in zip(self.items, self._images(self.items), strict=True):
                    add(self.todo.file(item, self.todo.format).as_posix(), self._encode(item, pixels))
        self.stdout.flush()
        self.written = len(self.items)

    def _cells(self) -> list[Item]:
        return self.items[: self.todo.columns * self.todo.rows]

    def _images(self, items: list[Item]) -> "Iterator[tuple[Tensor, np.ndarray]]":
        """(z [*z], uint8 [H, W, C]) of each item, in order."""
        import torch

        from ganctl.io.images import to_pixels

        done = 0
        while done < len(items):
            part = items[done : done + self.batch]
            z = torch.cat([self.model.net.prior([i.seed]) if i.z is None else i.z[None] for i in part])
            try:
                with torch.inference_mode(), self._precision():
                    x = self.model.net.sample(z.to(self.model.device))
            except torch.OutOfMemoryError as e:
                self._halve(e)
                continue
            pixels = to_pixels(x, self.model.net.x.range)
            for one, picture in zip(z, pixels, strict=True):
                yield one, self._sized(picture)
            done += len(part)
            self.reporter.progress("sample", done, len(items))

    def _precision(self) -> Any:
        import torch

        if self.model.device.type == "cuda":
            # fp32 means fp32: TF32 convolutions would make a GPU's picture differ visibly from a CPU's.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.todo.request.dtype)
        return torch.autocast(self.model.device.type, half) if half else contextlib.nullcontext()

    def _halve(self, e: Exception) -> None:
        import torch

        if self.batch == 1:
            raise DeviceError("out of memory", "even one image at a time does not fit", "use --device cpu") from e
        self.batch //= 2
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.reporter.warn("memory was short", f"going on with --batch-size {self.batch}", "")

    def _sized(self, pixels: "np.ndarray") -> "np.ndarray":
        if self.todo.request.size is None:
            return pixels
        from ganctl.io.images import resize

        h, w = pixels.shape[:2]
        scale = self.todo.request.size / min(h, w)
        return resize(pixels, (max(1, round(h * scale)), max(1, round(w * scale))))

    def _encode(self, item: Item, pixels: "np.ndarray") -> bytes:
        from ganctl.io.images import encode

        record = self.records.image(item)
        if self.todo.format == "npy":
            return npy_bytes(pixels, record)
        return encode(pixels, self.todo.format, self.todo.request.quality, record)

    def _encode_sheet(self) -> bytes:
        from ganctl.io.images import encode, grid

        form = SUFFIXES[self.records.sheet().suffix.lower()]
        if self.todo.kind == "stream":
            form = self.todo.format
        return encode(grid(self.sheet, self.todo.columns), form, self.todo.request.quality, self.records.grid())

    def _write(self, item: Item, pixels: "np.ndarray", z: "Tensor") -> None:
        from ganctl.io.arrays import write_npz
        from ganctl.io.files import atomic_write

        if self.todo.request.save_latents:
            write_npz(self.todo.file(item, "npz"), self._latent(z), self.records.latent(item))
        with atomic_write(self.todo.file(item, self.todo.format)) as f:
            f.write(self._encode(item, pixels))

    def _write_sheet(self) -> None:
        from ganctl.io.files import atomic_write

        with atomic_write(self.records.sheet()) as f:
            f.write(self._encode_sheet())

    def _latent(self, z: "Tensor") -> "dict[str, np.ndarray]":
        import numpy as np

        name = shown_name(self.todo.request.model)
        return {"z": z.numpy()[None], "model": np.array(name), "revision": np.array(self.model.revision)}

    def _tell(self, *results: dict[str, Any]) -> None:
        for result in results:
            self.written += result["status"] == "written"
            self.existing += result["status"] == "exists"
            self.paths.append(Path(result["path"]))
            self.reporter.result(result)


def _ranges(items: Sequence[Item]) -> str | None:
    """Seeds as '0-35,85', or a digest when that is long; None for latents."""
    parts: list[list[int]] = []
    for item in items:
        if item.seed is None:
            return hashlib.sha256(b"".join(i.z.numpy().tobytes() for i in items if i.z is not None)).hexdigest()[:32]
        if parts and item.seed == parts[-1][1] + 1:
            parts[-1][1] = item.seed
        else:
            parts.append([item.seed, item.seed])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return text if len(text) <= 2000 else "sha256:" + hashlib.sha256(text.encode()).hexdigest()
