"""`ganctl invert`: the latent behind a picture, by optimisation, or by an autoencoder's own encoder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl import __version__
from ganctl.config import config
from ganctl.errors import DeviceError, GanctlError, UsageError, quoted
from ganctl.io.images import center_crop_resize, encode, from_pixels, read_image, to_channels, to_pixels
from ganctl.io.outputs import default_folder, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.video import need_av, write_video
from ganctl.workflows.pipeline import overlapped
from ganctl.workflows.targets import Job, Tally, list_inputs, plan, refuse_clashes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.inversion.optimize import Step
    from ganctl.load import Model

VIDEO_FRAMES = 200
VIDEO_FPS = 30


@config
class InvertRequest:
    model: str
    inputs: tuple[str, ...] = ()
    out: str | None = None
    """A folder, or x.npz for one input; None: out/<model>/invert/."""
    method: Literal["optimize", "encode"] | None = None
    """None encodes with an autoencoder and optimises with any other model."""
    steps: int = 1000
    lr: float = 0.1
    seed: int = 0
    """Of the starting points."""
    init: str = "mean"
    """mean, or a latent file: where every image starts."""
    mask: str | None = None
    """An image whose white pixels do not count; a model paints them anew."""
    batch_size: int = 1
    save_video: bool = False
    save_every: int | None = None
    """Also writes <stem>-stepNNNNN.png every so many steps."""
    recursive: bool = True
    from_file: str | None = None
    device: str = "auto"
    overwrite: bool = False
    fail_fast: bool = False


@config
class InvertReport:
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
    """uint8 [H, W, C], as the model sees it."""
    z: "np.ndarray | None" = None
    picture: "np.ndarray | None" = None
    """uint8 [H, W, C]: G(z)."""
    loss: float = 0.0
    psnr: float = 0.0
    frames: "tuple[np.ndarray, ...]" = ()
    error: GanctlError | None = None


def run(request: InvertRequest, reporter: Reporter = SILENT) -> InvertReport:
    """Inverts every input. Raises UsageError before any work, PartialError when some inputs failed."""
    jobs = prepare(request)
    from ganctl.load import load

    model = load(request.model, device=request.device, reporter=reporter)
    work = Work(
        request, model, pick_method(request, model), read_mask(request, model), read_init(request, model), reporter
    )
    items = [work.settle(job) for job in jobs]
    tally = Tally(reporter, "invert", len(jobs), request.fail_fast)
    counts = {"written": 0, "exists": 0, "failed": 0}
    for item in overlapped(items, work.decode, work.compute, work.write, together=work.together):
        counts["failed" if item.error else item.status] += 1
        tally.add(work.result(item), item.error)
    tally.close()
    return InvertReport(**counts)


def prepare(request: InvertRequest) -> list[Job]:
    """The cheap checks: numbers in range, inputs there, outputs named, no clash, the encoder. Raises UsageError."""
    import math

    if not (math.isfinite(request.lr) and request.lr > 0):
        raise UsageError(f"cannot use --lr {request.lr}", "it must be a number above 0")
    for name in ("steps", "batch_size", "save_every"):
        if (value := getattr(request, name)) is not None and value < 1:
            raise UsageError(f"cannot use --{name.replace('_', '-')} {value}", "it must be at least 1")
    for option, path in (("--mask", request.mask), ("--init", request.init if request.init != "mean" else None)):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"cannot use {option} {quoted(path)}", "there is no such file")
    if request.save_video:
        need_av("cannot write the inversion's video")
    out = Path(request.out) if request.out else None
    single = out is not None and out.suffix.lower() == ".npz" and not out.is_dir()
    if (out is not None and not single and out.is_file()) or request.out == "-":
        raise UsageError(
            f"cannot write to {quoted(request.out)}", "inversions go into a folder, or one into an .npz file"
        )
    folder = out or default_folder(request.model, "invert")
    inputs = list_inputs(request.inputs, request.from_file, request.recursive, None if single else folder)
    if not single:
        jobs = plan(inputs, folder, lambda name: f"{Path(name).stem}.npz")
    elif len(inputs) == 1:
        jobs = [Job(inputs[0].ref, out)]
    else:
        raise UsageError(f"cannot write {len(inputs)} inversions to {quoted(out)}", "it takes one", "-o folder/")
    refuse_clashes([*jobs, *(Job(j.ref, beside(j, "-rec.png")) for j in jobs)])
    return jobs


def beside(job: Job, ending: str) -> Path:
    """<stem><ending> next to the job's .npz."""
    assert job.path is not None
    return job.path.with_name(job.path.stem + ending)


def pick_method(request: InvertRequest, model: "Model") -> str:
    """encode or optimize. Raises UsageError when the model cannot."""
    from ganctl.protocols import Autoencoder, Sampler

    what = f"cannot invert with {quoted(request.model)}"
    known = {"encode": isinstance(model.net, Autoencoder), "optimize": isinstance(model.net, Sampler)}
    able = [method for method, can in known.items() if can]
    if not able:
        raise UsageError(what, f"{quoted(model.model)} has no latent space", "see: ganctl zoo list")
    if request.method and request.method not in able:
        raise UsageError(what, f"{quoted(model.model)} has no --method {request.method}", f"--method {able[0]}")
    return request.method or able[0]


def read_mask(request: InvertRequest, model: "Model") -> "np.ndarray | None":
    """float32 [1, 1, H, W]: 1 where pixels count, 0 under the mask's white. Raises UsageError when none counts."""
    if request.mask is None:
        return None
    import numpy as np

    data = Path(request.mask).read_bytes()
    picture = to_channels(read_image(data, name=request.mask).pixels, 1)
    counts = (center_crop_resize(picture, model.net.x.size, "box") < 128).astype(np.float32)
    if not counts.any():
        why = "it is white everywhere, so no pixel counts; black pixels are kept, white ones ignored"
        raise UsageError(f"cannot use --mask {quoted(request.mask)}", why)
    return counts[None, None, :, :, 0]


def read_init(request: InvertRequest, model: "Model") -> "np.ndarray | None":
    """float32 [1, *z]. Raises UsageError when the file is another model's, or holds several latents."""
    if request.init == "mean":
        return None
    from ganctl.io.latents import read_latents

    shape = tuple(model.net.prior([0]).shape[1:])
    ((_, z),) = read_latents([request.init], model=model.name, revision=model.revision, shape=shape)
    if len(z) != 1:
        raise UsageError(f"cannot use --init {quoted(request.init)}", f"it holds {len(z)} latents, one is needed")
    return z


@dataclass(frozen=True)
class Work:
    """The stages an image passes. Failures of one image travel with it; a failed write ends the run."""

    request: InvertRequest
    model: "Model"
    method: str
    mask: "np.ndarray | None"
    init: "np.ndarray | None"
    reporter: Reporter

    def fields(self, data: bytes) -> dict[str, Any]:
        """What the result depends on; kept in the .npz."""
        made: dict[str, Any] = {
            "ganctl": __version__,
            "verb": "invert",
            "model": self.model.name,
            "revision": self.model.revision,
            "method": self.method,
            "input_sha256": hashlib.sha256(data).hexdigest(),
        }
        if self.mask is not None:
            made["mask_sha256"] = hashlib.sha256(self.mask.tobytes()).hexdigest()
        if self.method == "optimize":
            made |= {"steps": self.request.steps, "lr": self.request.lr, "seed": self.request.seed}
            made["init"] = "mean" if self.init is None else hashlib.sha256(self.init.tobytes()).hexdigest()
        return made

    def settle(self, job: Job) -> Item:
        """Whether the result is there already. Raises UsageError when it is another request's."""
        item = Item(job)
        if job.path is None or not job.path.exists() or job.ref.source is None:
            return item
        try:
            made = self.fields(job.ref.read())
        except GanctlError as e:
            return replace(item, error=e)
        if status_of(job.path, made, self.request.overwrite) != "exists":
            return item
        from ganctl.io.arrays import read_npz

        arrays = read_npz(job.path)
        return replace(item, status="exists", loss=float(arrays["loss"]), psnr=float(arrays["psnr"]))

    def decode(self, item: Item) -> Item:
        """Bytes → pixels in the model's size and channels: centre crop, then resize."""
        if item.error or item.status == "exists":
            return item
        try:
            data = item.job.ref.read()
            pixels = read_image(data, name=item.job.label).pixels
            item = replace(item, request=self.fields(data))
            if item.job.ref.source is None and item.job.path and item.job.path.exists():
                status_of(item.job.path, item.request, self.request.overwrite)
            pixels = center_crop_resize(to_channels(pixels, self.model.net.x.channels), self.model.net.x.size)
            return replace(item, pixels=pixels)
        except GanctlError as e:
            return replace(item, error=e)

    def together(self, group: Sequence[Item], item: Item) -> bool:
        return group[0].pixels is not None and item.pixels is not None and len(group) < self.request.batch_size

    def compute(self, group: Sequence[Item]) -> Sequence[Item]:
        """Inverts a batch; one that fails is tried again image by image, so one image fails alone."""
        if group[0].pixels is None:
            return group
        try:
            return self.invert(group)
        except GanctlError as e:
            if len(group) > 1:
                return [done for item in group for done in self.compute([item])]
            return [replace(group[0], pixels=None, error=e)]

    def invert(self, group: Sequence[Item]) -> list[Item]:
        import numpy as np
        import torch

        from ganctl.inversion.optimize import psnr

        net = self.model.net
        x = from_pixels(np.stack([i.pixels for i in group if i.pixels is not None]), net.x.range).to(self.model.device)
        mask = None if self.mask is None else torch.from_numpy(self.mask).to(x).expand(len(x), -1, -1, -1)
        frames: list[list[np.ndarray]] = [[] for _ in group]
        try:
            if self.method == "encode":
                with torch.inference_mode():
                    z = net.encode(x)
                    y = net.decode(z)
                    weight = torch.ones_like(x) if mask is None else mask.expand_as(x)
                    loss = (weight * (y - x) ** 2).sum((1, 2, 3)) / weight.sum((1, 2, 3))
            else:
                z, y, loss = self.optimize(x, mask, group, frames)
        except torch.OutOfMemoryError as e:
            why = f"a batch of {len(group)} does not fit into the memory of {self.model.device}"
            raise DeviceError("cannot invert the image", why, "try --batch-size 1, or --device cpu") from e
        ratio = psnr(x, y, net.x.range, mask)
        pictures = to_pixels(y, net.x.range)
        return [
            replace(
                item,
                z=z[i].cpu().numpy(),
                picture=pictures[i],
                loss=float(loss[i]),
                psnr=float(ratio[i]),
                frames=tuple(frames[i]),
            )
            for i, item in enumerate(group)
        ]

    def optimize(
        self, x: "Tensor", mask: "Tensor | None", group: Sequence[Item], frames: "list[list[np.ndarray]]"
    ) -> "tuple[Tensor, Tensor, Tensor]":
        import torch

        from ganctl.inversion.optimize import InvertConfig, optimize

        cfg = InvertConfig(steps=self.request.steps, lr=self.request.lr, seed=self.request.seed)
        init = None if self.init is None else torch.from_numpy(self.init).expand(len(x), *self.init.shape[1:])
        on_step = self.watcher(group, frames)
        found = optimize(self.model.net, x, cfg, on_step, init=init, mask=mask)
        return found.z, found.x, found.loss

    def watcher(self, group: Sequence[Item], frames: "list[list[np.ndarray]]") -> "Callable[[Step], None]":
        """Reports progress, keeps frames for --save-video and writes those of --save-every."""
        import numpy as np
        import torch

        request, net = self.request, self.model.net
        stride = max(1, request.steps // VIDEO_FRAMES)

        def on_step(step: "Step") -> None:
            if step.step % 10 == 0 or step.step == request.steps:
                self.reporter.progress(f"steps for {group[0].job.label}", step.step, request.steps)
            filmed = request.save_video and step.step % stride == 0
            kept = request.save_every and step.step and step.step % request.save_every == 0
            if not (filmed or kept):
                return
            with torch.no_grad():
                pictures = to_pixels(net.sample(step.z), net.x.range)
            for item, film, picture in zip(group, frames, pictures, strict=True):
                if filmed and item.pixels is not None:
                    film.append(np.concatenate([item.pixels, picture], 1))
                if kept:
                    write_bytes(beside(item.job, f"-step{step.step:05d}.png"), encode(picture, request=item.request))

        return on_step

    def write(self, item: Item) -> Item:
        """The pictures first, the .npz last: when it is there, everything is."""
        import numpy as np

        from ganctl.io.arrays import write_npz

        if item.z is None or item.picture is None or item.job.path is None:
            return item
        write_bytes(beside(item.job, "-rec.png"), encode(item.picture, request=item.request))
        if item.frames:
            film = beside(item.job, ".mp4")
            write_video(film, item.frames, fps=VIDEO_FPS, codec="h264", request=item.request)
        arrays = {
            "z": item.z,
            "loss": np.float64(item.loss),
            "psnr": np.float64(item.psnr),
            "model": np.array(self.model.name),
            "revision": np.array(self.model.revision),
        }
        write_npz(item.job.path, arrays, item.request)
        return replace(item, frames=())

    def result(self, item: Item) -> dict[str, Any]:
        found: dict[str, Any] = {
            "path": str(item.job.path),
            "input": item.job.label,
            "model": self.model.name,
            "revision": self.model.revision,
            "status": item.status,
        }
        if item.error is None:
            found |= {"psnr": round(item.psnr, 3), "loss": item.loss, "picture": str(beside(item.job, "-rec.png"))}
        return found


def write_bytes(path: Path, data: bytes) -> None:
    from ganctl.io.files import atomic_write

    with atomic_write(path) as f:
        f.write(data)
