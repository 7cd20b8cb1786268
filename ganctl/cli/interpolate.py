"""`ganctl interpolate`."""

from functools import partial
from typing import Annotated, Literal

import typer

from ganctl.cli import show

KEYS, PATH, VIDEO = "Keyframes", "Path", "Video"


def interpolate(
    model: Annotated[str, typer.Argument(help="A sampler: zoo name, org/repo[@rev], or a local bundle or run.")],
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="Such as 3,85,100-104. Default: 0-5.", rich_help_panel=KEYS)
    ] = None,
    latents: Annotated[
        list[str] | None,
        typer.Option(metavar="F.npz…", help="From `sample --save-latents` or `invert`.", rich_help_panel=KEYS),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="A[,B]",
            help="Of a conditional model: in w from keyframe to keyframe. Default: drawn by each seed.",
            rich_help_panel=KEYS,
        ),
    ] = None,
    trunc: Annotated[
        float | None,
        typer.Option(metavar="PSI", help="Truncation. Default: the model card's, else 1.", rich_help_panel=KEYS),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--outdir",
            "-o",
            metavar="walk.mp4|.webm|.gif|DIR/|-",
            help="- is a y4m stream for ffmpeg. Default: out/MODEL/interpolate/walk.gif",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="From one keyframe to the next.", rich_help_panel=VIDEO)] = 60,
    fps: Annotated[float, typer.Option(help="Frames per second; a GIF at most 50.", rich_help_panel=VIDEO)] = 30,
    space: Annotated[
        Literal["z", "w"] | None,
        typer.Option(help="Where the path runs. Default: w where the model has it, else z.", rich_help_panel=PATH),
    ] = None,
    method: Annotated[
        Literal["lerp", "slerp", "cubic"] | None,
        typer.Option(help="Line, arc or spline. Default: cubic in w, slerp in z.", rich_help_panel=PATH),
    ] = None,
    easing: Annotated[
        Literal["linear", "ease-in-out"], typer.Option(help="Speed between keyframes.", rich_help_panel=PATH)
    ] = "linear",
    loop: Annotated[bool, typer.Option(help="Return to the first keyframe.", rich_help_panel=PATH)] = True,
    grid: Annotated[str, typer.Option(metavar="WxH", help="Walks side by side.", rich_help_panel=VIDEO)] = "1x1",
    num_keyframes: Annotated[int | None, typer.Option(min=2, help="Of each walk.", rich_help_panel=KEYS)] = None,
    shuffle_seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Shuffle the keyframes.", rich_help_panel=KEYS)
    ] = None,
    codec: Annotated[
        Literal["h264", "vp9", "gif", "png"] | None, typer.Option(help="Default: by suffix.", rich_help_panel=VIDEO)
    ] = None,
    crf: Annotated[int, typer.Option(min=0, max=63, help="Lower is better and larger.", rich_help_panel=VIDEO)] = 18,
) -> None:
    """Walk through a model's latent space, from keyframe to keyframe, as a video or frames.

    mp4 and webm need `pip install 'ganctl[video]'`; GIF and frames need nothing more.
    """
    common = show.common()
    from ganctl.workflows.interpolate import InterpolateRequest, resolve, run

    request = InterpolateRequest(
        model=model, seeds=seeds, latents=tuple(latents or ()), classes=classes, trunc=trunc, out=out,
        frames=frames, fps=fps, space=space, method=method, easing=easing, loop=loop, grid=grid,
        num_keyframes=num_keyframes, shuffle_seed=shuffle_seed, codec=codec, crf=crf,
        device=common.device, dtype=common.dtype, overwrite=common.overwrite,
    )  # fmt: skip
    stream = show.binary_stdout() if out == "-" and not common.dry_run else None
    show.execute(partial(run, stdout=stream), request, check=resolve)
