"""`ganctl interpolate`."""

from functools import partial
from typing import Annotated, Literal

import typer

from ganctl.cli import show
from ganctl.errors import UsageError, quoted

KEYS, PATH, VIDEO = "Keyframes", "Path", "Video"


def interpolate(
    model: Annotated[str, typer.Argument(help="A sampler: zoo name, org/repo[@rev], or a local bundle or run.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[F.npz…]", help="More files after --latents.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="Such as 3,85,100-104. Default: 0-5.", rich_help_panel=KEYS)
    ] = None,
    latents: Annotated[
        list[str] | None,
        typer.Option(metavar="F.npz…", help="From `sample --save-latents` or `invert`.", rich_help_panel=KEYS),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="walk.mp4|.webm|.gif|DIR/|-",
            help="- is a y4m stream for ffmpeg. Default: out/MODEL/interpolate/walk.gif",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="From one keyframe to the next.", rich_help_panel=VIDEO)] = 60,
    fps: Annotated[float, typer.Option(help="Frames per second; a GIF at most 50.", rich_help_panel=VIDEO)] = 30,
    method: Annotated[
        Literal["lerp", "slerp", "cubic"], typer.Option(help="Line, arc or spline.", rich_help_panel=PATH)
    ] = "slerp",
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
    from ganctl.io.seeds import parse_seeds
    from ganctl.workflows.interpolate import InterpolateRequest, check, run

    if more and not latents:
        raise UsageError(f"unexpected argument {quoted(more[0])}", "files are keyframes after --latents")
    common = show.common()
    keys = tuple(parse_seeds(seeds)) if seeds is not None else None
    request = InterpolateRequest(
        model=model, seeds=keys, latents=(*(latents or ()), *(more or ())), out=out, frames=frames, fps=fps,
        method=method, easing=easing, loop=loop, grid=grid, num_keyframes=num_keyframes, shuffle_seed=shuffle_seed,
        codec=codec, crf=crf, device=common.device, overwrite=common.overwrite,
    )  # fmt: skip
    if out == "-" and not common.dry_run:
        show.execute(partial(run, stdout=show.binary_stdout()), request, line=None)
    else:
        show.execute(run, request, check=check)
