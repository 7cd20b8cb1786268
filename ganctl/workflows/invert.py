"""`ganctl invert`: the latent behind a picture, by optimisation, or by an autoencoder's own encoder."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import DeviceError, GanctlError, UsageError, quoted
from ganctl.io.files import read_regular
from ganctl.io.images import center_crop_resize, from_pixels, read_image, to_channels, to_pixels, write_image
from ganctl.io.limits import MAX_IMAGE_BYTES
from ganctl.io.outputs import check_writable, default_folder, request_for, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.video import need_av, write_video
from ganctl.workflows.pipeline import overlapped
from ganctl.workflows.targets import Job, Tally, list_inputs, plan, refuse_clashes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.inversion.optimize import Loss, Step
    from ganctl.load import Model

VIDEO_FRAMES = 200
VIDEO_FPS = 30


@config
class InvertRequest:
    model: str
    inputs: tuple[str, ...] = ()
    out: str | None = None
    """A folder, or x.npz for one input; None: out/<model>/invert/."""
    method: Literal["optimize", "encoder"] | None = None
    """None encodes with an autoencoder and optimises with any other model."""
    space: Literal["z"] = "z"
    loss: Literal["lpips", "l2", "lpips+l2"] | None = None
    """None: LPIPS where its weights are on this machine and pictures are large enough, else l2."""
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
    data: bytes | None = None
    """The input's bytes where they were read already: standard input is read once."""
    request: dict[str, Any] = field(default_factory=dict)
    status: str = "written"
    pixels: "np.ndarray | None" = None
    """uint8 [H, W, C], as the model sees it."""
    z: "np.ndarray | None" = None
    picture: "np.ndarray | None" = None
    """uint8 [H, W, C]: G(z)."""
    loss: float = 0.0
    psnr: float = 0.0
    lpips: float | None = None
    """Where LPIPS was part of the loss."""
    frames: "tuple[np.ndarray, ...]" = ()
    error: GanctlError | None = None


def run(request: InvertRequest, reporter: Reporter = SILENT) -> InvertReport:
    """Inverts every input. Raises UsageError before any work, PartialError when some inputs failed."""
    jobs = prepare(request, reporter)
    from ganctl.load import load

    model = load(request.model, device=request.device, reporter=reporter)
    method = pick_method(request, model)
    loss, why = pick_loss(request, model, method)
    mask, init = read_mask(request, model), read_init(request, model)
    work = Work(request, model, method, loss, mask, init, reporter, len(jobs))
    items = [work.settle(job) for job in jobs]
    if method == "optimize" and not all(i.error or i.status == "exists" for i in items):
        reporter.note(f"loss: {why}")
        work.open_loss()
    if method != "optimize" and (request.save_video or request.save_every or request.loss):
        unused = "--save-video, --save-every and --loss are not used"
        reporter.warn(unused, "an encoder has no search to show", "")
    tally = Tally(replace(reporter, progress=work.no_progress), "invert", len(jobs), request.fail_fast)
    counts = {"written": 0, "exists": 0, "failed": 0}
    for item in overlapped(items, work.decode, work.compute, work.write, together=work.together):
        counts["failed" if item.error else item.status] += 1
        tally.add(work.result(item), item.error)
    tally.close()
    return InvertReport(**counts)


def prepare(request: InvertRequest, reporter: Reporter = SILENT) -> list[Job]:
    """The cheap checks: numbers in range, inputs there, outputs named, no clash, the encoder. Raises UsageError."""
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
    check_name(request.model)
    jobs = _jobs(request, reporter)
    check_writable(jobs[0].path or Path())
    return jobs


def _jobs(request: InvertRequest, reporter: Reporter) -> list[Job]:
    out = Path(request.out).expanduser() if request.out else None
    single = out is not None and out.suffix.lower() == ".npz" and not out.is_dir()
    if (out is not None and not single and out.is_file()) or request.out == "-":
        what = f"cannot write to {quoted(request.out)}"
        raise UsageError(what, "inversions go into a folder, or one into an .npz file", "for example -o inv/")
    folder = out or default_folder(request.model, "invert")
    inputs = list_inputs(request.inputs, request.from_file, request.recursive, None if single else folder, reporter)
    if not single:
        jobs = plan(inputs, folder, lambda name: f"{Path(name).stem}.npz")
    elif len(inputs) == 1:
        jobs = [Job(inputs[0].ref, out)]
    else:
        raise UsageError(f"cannot write {len(inputs)} inversions to {quoted(out)}", "it takes one", "-o folder/")
    refuse_clashes([*jobs, *(Job(j.ref, beside(j, "-rec.png")) for j in jobs)])
    return jobs


def resolve(request: InvertRequest) -> InvertRequest:
    """The checked request with every input and the output named: what --dry-run prints. Raises UsageError."""
    jobs = prepare(request)
    out = request.out or str(default_folder(request.model, "invert"))
    return replace(request, inputs=tuple(j.label for j in jobs), out=out, from_file=None)


def beside(job: Job, ending: str) -> Path:
    """<stem><ending> next to the job's .npz."""
    assert job.path is not None
    return job.path.with_name(job.path.stem + ending)


def pick_method(request: InvertRequest, model: "Model") -> str:
    """encode or optimize. Raises UsageError when the model cannot."""
    from ganctl.protocols import Autoencoder, Sampler

    what = f"cannot invert with {quoted(request.model)}"
    known = {"encoder": isinstance(model.net, Autoencoder), "optimize": isinstance(model.net, Sampler)}
    able = [method for method, can in known.items() if can]
    if not able:
        raise UsageError(what, f"{quoted(model.model)} has no latent space", "see: ganctl zoo list")
    if request.method and request.method not in able:
        raise UsageError(what, f"{quoted(model.model)} has no --method {request.method}", f"--method {able[0]}")
    return request.method or able[0]


def pick_loss(request: InvertRequest, model: "Model", method: str) -> tuple[str, str]:
    """The loss of a search, and what is said of it. Makes no request. Raises UsageError where LPIPS cannot be used."""
    from ganctl.catalog import entries
    from ganctl.inversion.perceptual import SMALLEST
    from ganctl.nn.features.vgg import VGG16Features
    from ganctl.workflows.zoo import local_bundle

    said = {
        "l2": "l2, the mean squared error",
        "lpips": "lpips, over VGG-16; --loss l2 is faster",
        "lpips+l2": "lpips over VGG-16, plus the mean squared error",
    }
    if method != "optimize":
        return "l2", said["l2"]
    side, channels, least = min(model.net.x.size), model.net.x.channels, VGG16Features.MIN_SIDE
    if request.loss:
        if "lpips" in request.loss and (side < least or channels not in (1, 3)):
            why = f"pictures have {side} px and {channels} channels, LPIPS needs {least} px and grey or RGB"
            raise UsageError(f"cannot use --loss {request.loss}", why, "--loss l2")
        return request.loss, said[request.loss]
    if side < SMALLEST or channels not in (1, 3):
        return "l2", f"{said['l2']} (LPIPS was learned on RGB pictures of {SMALLEST} px)"
    known = entries().get("vgg16-imagenet")
    if known is None or local_bundle(known) is None:
        return "l2", f"{said['l2']} (for LPIPS: ganctl zoo pull vgg16-imagenet)"
    return "lpips", said["lpips"]


def read_mask(request: InvertRequest, model: "Model") -> "np.ndarray | None":
    """float32 [1, 1, H, W]: 1 where pixels count, 0 under the mask's white. Raises UsageError when none counts."""
    if request.mask is None:
        return None
    import numpy as np

    data = read_regular(Path(request.mask), limit=MAX_IMAGE_BYTES)
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
    ((_, z),) = read_latents([request.init], model=shown_name(model.name), revision=model.revision, shape=shape)
    if len(z) != 1:
        raise UsageError(f"cannot use --init {quoted(request.init)}", f"it holds {len(z)} latents, one is needed")
    return z


@dataclass
class Work:
    """The stages an image passes. Failures of one image travel with it; a failed write ends the run."""

    request: InvertRequest
    model: "Model"
    method: str
    loss: str
    mask: "np.ndarray | None"
    init: "np.ndarray | None"
    reporter: Reporter
    total: int
    done: int = 0
    """Images that have left `compute`."""
    distance: "Loss | None" = None
    """Of the search, from `open_loss`; None is the mean squared error."""
    lpips: "Loss | None" = None

    def open_loss(self) -> None:
        """Loads LPIPS where the loss needs it. Raises WeightsError when its weights are not at hand."""
        if self.loss == "l2":
            return
        from ganctl.inversion.perceptual import perceptual_loss
        from ganctl.metrics.perceptual import open_lpips

        net, _ = open_lpips("vgg", device=self.model.device, reporter=self.reporter)
        bounds = self.model.net.x.range
        self.lpips = perceptual_loss(net, bounds, l2=False)
        self.distance = perceptual_loss(net, bounds, l2=True) if self.loss == "lpips+l2" else self.lpips

    def fields(self, data: bytes) -> dict[str, Any]:
        """What the result depends on; kept in the .npz and the pictures."""
        searched = self.method == "optimize"
        start = "mean" if self.init is None else hashlib.sha256(self.init.tobytes()).hexdigest()
        return request_for(
            "invert",
            self.model.name,
            self.model.revision,
            method=self.method,
            input=hashlib.sha256(data).hexdigest(),
            mask=None if self.mask is None else hashlib.sha256(self.mask.tobytes()).hexdigest(),
            loss=self.loss if searched else None,
            steps=self.request.steps if searched else None,
            lr=self.request.lr if searched else None,
            seed=self.request.seed if searched else None,
            init=start if searched else None,
        )

    def outputs(self, job: Job) -> list[Path]:
        """Every file of one image, the .npz last: when it is there, so are the others."""
        assert job.path is not None
        if self.method != "optimize":
            return [beside(job, "-rec.png"), job.path]
        every = self.request.save_every or self.request.steps + 1
        steps = [beside(job, f"-step{s:05d}.png") for s in range(every, self.request.steps + 1, every)]
        video = [beside(job, ".mp4")] if self.request.save_video else []
        return [*steps, beside(job, "-rec.png"), *video, job.path]

    def settle(self, job: Job) -> Item:
        """Whether the result is there already. Raises UsageError when something of another request is."""
        item = Item(job)
        there = [path for path in self.outputs(job) if os.path.lexists(path)]
        if not there and job.ref.source is not None:
            return item
        try:
            data = job.ref.read()
        except GanctlError as e:
            return replace(item, error=e)
        if job.ref.source is None:
            item = replace(item, data=data)
        states = [status_of(path, self.fields(data), self.request.overwrite) for path in self.outputs(job)]
        if "write" in states:
            return item
        from ganctl.io.arrays import read_npz

        arrays = read_npz(self.outputs(job)[-1])
        lpips = float(arrays["lpips"]) if "lpips" in arrays else None
        found = replace(item, data=None, status="exists", lpips=lpips)
        return replace(found, loss=float(arrays["loss"]), psnr=float(arrays["psnr"]))

    def decode(self, item: Item) -> Item:
        """Bytes → pixels in the model's size and channels: centre crop, then resize."""
        if item.error or item.status == "exists":
            return item
        try:
            data = item.job.ref.read() if item.data is None else item.data
            pixels = read_image(data, name=item.job.label).pixels
            pixels = center_crop_resize(to_channels(pixels, self.model.net.x.channels), self.model.net.x.size)
            return replace(item, data=None, request=self.fields(data), pixels=pixels)
        except GanctlError as e:
            return replace(item, data=None, error=e)

    def together(self, group: Sequence[Item], item: Item) -> bool:
        return group[0].pixels is not None and item.pixels is not None and len(group) < self.request.batch_size

    def compute(self, group: Sequence[Item]) -> Sequence[Item]:
        """Inverts a batch; one that fails is tried again image by image, so one image fails alone."""
        if group[0].pixels is not None:
            try:
                group = self.invert(group)
            except GanctlError as e:
                if len(group) > 1:
                    return [done for item in group for done in self.compute([item])]
                group = [replace(group[0], pixels=None, error=e)]
        self.done += len(group)
        self.progress(0, 0)
        return group

    def progress(self, step: int, images: int) -> None:
        """In steps of the search, of all images together."""
        steps = self.request.steps if self.method == "optimize" else 1
        self.reporter.progress("invert", self.done * steps + step * images, self.total * steps)

    def no_progress(self, *_: object) -> None:
        """For the tally, whose counts in images would alternate with those in steps."""

    def invert(self, group: Sequence[Item]) -> list[Item]:
        import numpy as np
        import torch

        from ganctl.inversion.optimize import psnr, squared_error
        from ganctl.nn.precision import inference
        from ganctl.protocols import Sampler

        net = self.model.net
        x = from_pixels(np.stack([i.pixels for i in group if i.pixels is not None]), net.x.range).to(self.model.device)
        mask = None if self.mask is None else torch.from_numpy(self.mask).to(x).expand(len(x), -1, -1, -1)
        frames: list[list[np.ndarray]] = [[] for _ in group]
        picture = net.sample if isinstance(net, Sampler) else net.decode
        try:
            z = self.search(x, mask, group, frames) if self.method == "optimize" else self.encode(x)
            with inference(self.model.device):
                # One by one, as `sample` does it: then -rec.png is the picture `sample --latents` makes.
                y = torch.cat([picture(one[None]) for one in z])
                error = squared_error(x, y, mask)
                loss = self.distance(x, y, mask) if self.distance else error
                lpips = self.lpips(x, y, mask).tolist() if self.lpips else [None] * len(group)
        except torch.OutOfMemoryError as e:
            why = f"a batch of {len(group)} does not fit into the memory of {self.model.device}"
            raise DeviceError("cannot invert the image", why, "try --batch-size 1, or --device cpu") from e
        scores = zip(loss.tolist(), psnr(error, net.x.range).tolist(), lpips, strict=True)
        return [
            replace(item, z=z, picture=picture, loss=loss, psnr=ratio, lpips=seen, frames=tuple(film))
            for item, z, picture, (loss, ratio, seen), film in zip(
                group, z.cpu().numpy(), to_pixels(y, net.x.range), scores, frames, strict=True
            )
        ]

    def encode(self, x: "Tensor") -> "Tensor":
        import torch

        from ganctl.nn.precision import inference

        with inference(self.model.device):
            return torch.cat([self.model.net.encode(one[None]) for one in x])

    def search(
        self, x: "Tensor", mask: "Tensor | None", group: Sequence[Item], frames: "list[list[np.ndarray]]"
    ) -> "Tensor":
        import torch

        from ganctl.inversion.optimize import InvertConfig, optimize, squared_error

        cfg = InvertConfig(steps=self.request.steps, lr=self.request.lr, seed=self.request.seed)
        init = None if self.init is None else torch.from_numpy(self.init).expand(len(x), *self.init.shape[1:])
        watch, distance = self.watcher(group, frames), self.distance or squared_error
        return optimize(self.model.net, x, cfg, watch, init=init, mask=mask, distance=distance).z

    def watcher(self, group: Sequence[Item], frames: "list[list[np.ndarray]]") -> "Callable[[Step], None]":
        """Reports progress, keeps frames for --save-video and writes those of --save-every."""
        import numpy as np
        import torch

        request, net = self.request, self.model.net
        stride = max(1, request.steps // VIDEO_FRAMES)

        def on_step(step: "Step") -> None:
            if step.step % 10 == 0 and step.step < request.steps:
                self.progress(step.step, len(group))
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
                    write_image(beside(item.job, f"-step{step.step:05d}.png"), picture, request=item.request)

        return on_step

    def write(self, item: Item) -> Item:
        """The pictures first, the .npz last: when it is there, everything is."""
        import numpy as np

        from ganctl.io.arrays import write_npz

        if item.z is None or item.picture is None or item.job.path is None:
            return item
        write_image(beside(item.job, "-rec.png"), item.picture, request=item.request)
        if item.frames:
            film = beside(item.job, ".mp4")
            write_video(film, item.frames, fps=VIDEO_FPS, codec="h264", request=item.request)
        arrays = {
            "z": item.z,
            "loss": np.float64(item.loss),
            "psnr": np.float64(item.psnr),
            **({} if item.lpips is None else {"lpips": np.float64(item.lpips)}),
            "model": np.array(shown_name(self.model.name)),
            "revision": np.array(self.model.revision),
        }
        write_npz(item.job.path, arrays, item.request)
        return replace(item, frames=())

    def result(self, item: Item) -> dict[str, Any]:
        name = shown_name(self.model.name)
        found = {"path": str(item.job.path), "input": item.job.label, "model": name, "revision": self.model.revision}
        if item.error is None:
            lpips = {} if item.lpips is None else {"lpips": item.lpips}
            picture = str(beside(item.job, "-rec.png"))
            found |= {"psnr": round(item.psnr, 3), "loss": item.loss, **lpips, "picture": picture}
        return {**found, "status": item.status}
