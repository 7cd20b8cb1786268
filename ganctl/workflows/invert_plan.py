"""What `ganctl invert` is asked for: checked in milliseconds, and then against the model."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ganctl.catalog import check_name
from ganctl.config import config
from ganctl.errors import UsageError, quoted
from ganctl.io.files import read_regular
from ganctl.io.images import center_crop_resize, read_image, to_channels
from ganctl.io.limits import MAX_IMAGE_BYTES
from ganctl.io.outputs import check_writable, default_folder, shown_name
from ganctl.io.progress import SILENT, Reporter
from ganctl.io.video import need_av
from ganctl.workflows.styles import one_class, refuse_classes, shapes, without_w
from ganctl.workflows.targets import Job, list_inputs, plan, refuse_clashes

if TYPE_CHECKING:
    import numpy as np

    from ganctl.io.latents import LatentFile
    from ganctl.load import Model


@config
class InvertRequest:
    model: str
    inputs: tuple[str, ...] = ()
    out: str | None = None
    """A folder, or x.npz for one input; None: out/<model>/invert/."""
    method: Literal["optimize", "encoder"] | None = None
    """None encodes with an autoencoder and optimises with any other model."""
    space: Literal["z", "w", "w+"] | None = None
    """None is w where the model has it, else z."""
    classes: str | None = None
    """The class of all images, of a conditional model: '207' or 'tabby'. In w None is the mean over all of them."""
    noise: bool = False
    """Searches the noise maps too."""
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


def pick_space(request: InvertRequest, model: "Model", method: str) -> str:
    """z, w or w+. Raises UsageError for a space the model has not, and for --noise where there is none to search."""
    from ganctl.nn.drawing import noise_maps
    from ganctl.protocols import StyleSampler

    styled = isinstance(model.net, StyleSampler)
    if request.space in ("w", "w+") and not styled:
        raise without_w(f"--space {request.space}", model)
    space = request.space or ("w" if styled and method == "optimize" else "z")
    if request.noise and (space == "z" or not noise_maps(model.net)):
        why = "it belongs to a search in w" if styled and space == "z" else f"{quoted(model.name)} stores no noise maps"
        raise UsageError("cannot use --noise", why, "leave it out")
    return space


def pick_class(
    request: InvertRequest, model: "Model", space: str, method: str, init: "LatentFile | None"
) -> int | None:
    """The class of a conditional model: of --class, or of the --init file; None where w has none, where an encoder
    finds it in each image, and of other models.

    Raises UsageError: none is given for a search in z, not one of the model's, more than one.
    """
    from ganctl.protocols import classes_of

    label = classes_of(model.net)
    if request.classes is not None:
        label = label or refuse_classes(request.classes, model)
        return one_class(request.classes, label.n, label.names)
    if label is None or method == "encoder":
        return None
    if init is not None and init.c:
        return one_class(str(init.c[0]), label.n, label.names)
    if space == "z" or (init is not None and init.space == "z"):
        what = f"cannot invert with {quoted(request.model)} in z"
        if space != "z":
            what = f"cannot use --init {quoted(request.init)}"
        why = f"the picture of a z depends on its class, one of {label.n}"
        raise UsageError(what, why, "pass --class, or --space w" if space == "z" and init is None else "pass --class")
    return None


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


def read_init(request: InvertRequest, model: "Model", space: str) -> "LatentFile | None":
    """The one latent of --init, in z or, for a search in w and w+, in w where the file has it; None is the mean.

    Raises UsageError when the file is another model's, holds several latents, or for w a style for each layer.
    """
    if request.init == "mean":
        return None
    from ganctl.io.latents import read_latents

    wanted = {name: shape for name, shape in shapes(model).items() if space != "z" or name == "z"}
    (file,) = read_latents([request.init], model=shown_name(model.name), revision=model.revision, shapes=wanted)
    what = f"cannot use --init {quoted(request.init)}"
    if len(file.rows) != 1:
        raise UsageError(what, f"it holds {len(file.rows)} latents, one is needed")
    if space == "w" and file.space == "w" and (file.rows != file.rows[:, :1]).any():
        raise UsageError(what, "it holds a style of its own for each layer", "use --space w+")
    return file


def start_of(file: "LatentFile | None", model: "Model", space: str, c: int | None) -> "np.ndarray | None":
    """Where a search starts: float32 [1, *z], or in w and w+ [1, l, w]; a z is mapped there, of the class c."""
    if file is None or space == "z" or file.space == "w":
        return None if file is None else file.rows
    import torch

    from ganctl.nn.drawing import Drawing, Latent, styles
    from ganctl.nn.precision import inference

    with inference(model.device):
        w = styles(model.net, [Latent(z=torch.from_numpy(file.rows[0]), c=c)], Drawing(), model.device)
    return w.cpu().numpy()
