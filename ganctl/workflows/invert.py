"""`ganctl invert`: the latent behind a picture, by optimisation, or by an autoencoder's own encoder."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.config import config
from ganctl.errors import DeviceError, GanctlError
from ganctl.io.images import center_crop_resize, from_pixels, read_image, to_channels, to_pixels, write_image
from ganctl.io.latents import NOISE
from ganctl.io.outputs import request_for, shown_name, status_of
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.video import write_video
from ganctl.workflows.invert_plan import (
    InvertRequest,
    beside,
    pick_class,
    pick_loss,
    pick_method,
    pick_space,
    prepare,
    read_init,
    read_mask,
    resolve,
    start_of,
)
from ganctl.workflows.pipeline import overlapped

__all__ = ["InvertReport", "InvertRequest", "pick_loss", "prepare", "resolve", "run"]
from ganctl.workflows.targets import Job, Tally

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganctl.inversion.optimize import Inversion, Loss, Maps, Step
    from ganctl.inversion.styles import StyleStatistics
    from ganctl.load import Model

VIDEO_FRAMES = 200
VIDEO_FPS = 30


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
    latent: "np.ndarray | None" = None
    """[*z], or [l, w]."""
    c: int | None = None
    """The class it is drawn as, of a conditional model in z."""
    maps: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    """Noise maps by their buffers' names, where they were searched."""
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
    space = pick_space(request, model, method)
    loss, why = pick_loss(request, model, method)
    mask, file = read_mask(request, model), read_init(request, model, space)
    c = pick_class(request, model, space, method, file)
    init = start_of(file, model, space, c)
    work = Work(request, model, method, space, c, loss, mask, init, reporter, len(jobs))
    items = [work.settle(job) for job in jobs]
    if method == "optimize" and not all(i.error or i.status == "exists" for i in items):
        reporter.note(f"loss: {why}")
        work.open_search()
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


@dataclass
class Work:
    """The stages an image passes. Failures of one image travel with it; a failed write ends the run."""

    request: InvertRequest
    model: "Model"
    method: str
    space: str
    c: int | None
    """The class of every image; None: of a model without classes, in w over all, by an encoder what it finds."""
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
    statistics: "StyleStatistics | None" = None
    """Of w, where the search is in w or w+."""

    def open_search(self) -> None:
        """Draws the statistics of w, and loads LPIPS where the loss needs it: WeightsError where it is not at hand."""
        if self.space != "z":
            from ganctl.inversion.styles import SAMPLES, style_statistics

            self.statistics = style_statistics(self.model.net, self.model.device, SAMPLES, self.c)
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
            space=None if self.space == "z" else self.space,
            **{"class": self.c},
            noise=self.request.noise or None,
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
        c = int(arrays["class"]) if "class" in arrays else None
        found = replace(item, data=None, status="exists", lpips=lpips, c=c)
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
        # Noise maps belong to one image.
        most = 1 if self.request.noise else self.request.batch_size
        return group[0].pixels is not None and item.pixels is not None and len(group) < most

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

        net = self.model.net
        x = from_pixels(np.stack([i.pixels for i in group if i.pixels is not None]), net.x.range).to(self.model.device)
        mask = None if self.mask is None else torch.from_numpy(self.mask).to(x).expand(len(x), -1, -1, -1)
        frames: list[list[np.ndarray]] = [[] for _ in group]
        maps: Maps = {}
        classes = self.classes(x)
        try:
            if self.method == "optimize":
                found = self.search(x, mask, group, frames)
                latents, maps = found.latent, found.maps
            else:
                latents = self.encode(x)
            with inference(self.model.device):
                # One by one, as `sample` does it: then -rec.png is the picture `sample --latents` makes.
                y = torch.cat([self.picture(one, maps, c) for one, c in zip(latents, classes, strict=True)])
                error = squared_error(x, y, mask)
                loss = self.distance(x, y, mask) if self.distance else error
                lpips = self.lpips(x, y, mask).tolist() if self.lpips else [None] * len(group)
        except torch.OutOfMemoryError as e:
            why = f"a batch of {len(group)} does not fit into the memory of {self.model.device}"
            raise DeviceError("cannot invert the image", why, "try --batch-size 1, or --device cpu") from e
        scores = zip(loss.tolist(), psnr(error, net.x.range).tolist(), lpips, strict=True)
        arrays = {name: value.cpu().numpy() for name, value in maps.items()}
        made = zip(group, latents.cpu().numpy(), to_pixels(y, net.x.range), scores, frames, classes, strict=True)
        return [
            replace(
                item, latent=latent, maps=arrays, picture=picture,
                loss=loss, psnr=ratio, lpips=seen, frames=tuple(film), c=c,
            )
            for item, latent, picture, (loss, ratio, seen), film, c in made
        ]  # fmt: skip

    def classes(self, x: "Tensor") -> list[int | None]:
        """What each image is drawn as in z: of an autoencoder with classes, where none is given, what it finds."""
        from ganctl.nn.precision import inference
        from ganctl.protocols import Autoencoder, classes_of

        net = self.model.net
        if self.c is not None or self.method != "encoder" or not isinstance(net, Autoencoder) or not classes_of(net):
            return [self.c] * len(x)
        with inference(self.model.device):
            return [int(net.logits(one[None]).argmax()) for one in x]  # pyright: ignore[reportAttributeAccessIssue]

    def picture(self, latent: "Tensor", maps: "Maps", c: int | None) -> "Tensor":
        """[1, c, h, w]"""
        from ganctl.nn.drawing import Drawing, Latent, draw
        from ganctl.protocols import Sampler

        if not isinstance(self.model.net, Sampler):
            return self.model.net.decode(latent[None])
        one = Latent(z=latent, c=c) if self.space == "z" else Latent(w=latent, maps=maps)
        return draw(self.model.net, [one], Drawing(), self.model.device)[0]

    def encode(self, x: "Tensor") -> "Tensor":
        import torch

        from ganctl.nn.precision import inference

        with inference(self.model.device):
            return torch.cat([self.model.net.encode(one[None]) for one in x])

    def search(
        self, x: "Tensor", mask: "Tensor | None", group: Sequence[Item], frames: "list[list[np.ndarray]]"
    ) -> "Inversion":
        import torch

        from ganctl.inversion.optimize import InvertConfig, optimize, squared_error

        cfg = InvertConfig(steps=self.request.steps, lr=self.request.lr, seed=self.request.seed)
        init = None if self.init is None else torch.from_numpy(self.init)
        watch, distance = self.watcher(group, frames), self.distance or squared_error
        if self.statistics is None:
            start = None if init is None else init.expand(len(x), *init.shape[1:])
            return optimize(self.model.net, x, cfg, watch, init=start, c=self.c, mask=mask, distance=distance)
        from ganctl.inversion.styles import project, start_maps
        from ganctl.nn.drawing import noise_maps

        maps = start_maps(noise_maps(self.model.net), cfg.seed) if self.request.noise else None
        first = None if init is None else init[0]
        return project(
            self.model.net, x, cfg, self.statistics, watch,
            space="w+" if self.space == "w+" else "w", init=first, mask=mask, distance=distance, maps=maps,
        )  # fmt: skip

    def watcher(self, group: Sequence[Item], frames: "list[list[np.ndarray]]") -> "Callable[[Step], None]":
        """Reports progress, keeps frames for --save-video and writes those of --save-every."""
        import numpy as np

        request, net = self.request, self.model.net
        stride = max(1, request.steps // VIDEO_FRAMES)

        def on_step(step: "Step") -> None:
            if step.step % 10 == 0 and step.step < request.steps:
                self.progress(step.step, len(group))
            filmed = request.save_video and step.step % stride == 0
            kept = request.save_every and step.step and step.step % request.save_every == 0
            if not (filmed or kept):
                return
            pictures = to_pixels(step.picture(), net.x.range)
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

        if item.latent is None or item.picture is None or item.job.path is None:
            return item
        write_image(beside(item.job, "-rec.png"), item.picture, request=item.request)
        if item.frames:
            film = beside(item.job, ".mp4")
            write_video(film, item.frames, fps=VIDEO_FPS, codec="h264", request=item.request)
        arrays = {
            "z" if self.space == "z" else "w": item.latent,
            **({"class": np.array(item.c)} if self.space == "z" and item.c is not None else {}),
            **{f"{NOISE}{name}": value for name, value in item.maps.items()},
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
        c = self.c if item.c is None else item.c
        found |= {} if c is None else {"class": c}
        if item.error is None:
            lpips = {} if item.lpips is None else {"lpips": item.lpips}
            picture = str(beside(item.job, "-rec.png"))
            found |= {"psnr": round(item.psnr, 3), "loss": item.loss, **lpips, "picture": picture}
        return {**found, "status": item.status}
