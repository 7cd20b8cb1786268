"""`ganctl translate`."""

from functools import partial
from typing import Annotated, Literal

import typer

from ganctl.cli import show

IMAGES, PICTURE, STYLE = "Images", "Picture", "Style"


def translate(
    model: Annotated[str, typer.Argument(help="A translator: zoo name, org/repo[@rev], or a local bundle or run.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT…", help="Files, folders, patterns, zip files, videos, or - for standard input."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--outdir",
            "-o",
            metavar="FILE|DIR|-",
            help="A file (one input), a folder (stems and tree kept), or - for the bytes. "
            "Default: out/MODEL/translate/",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            metavar="keep|N|WxH",
            help="keep: the input's own, padded to the model's stride and cropped back; N is NxN.",
            rich_help_panel=PICTURE,
        ),
    ] = "keep",
    tile: Annotated[
        int,
        typer.Option(
            min=0, help="Translate larger pictures in tiles of N pixels a side; 0 is off.", rich_help_panel=PICTURE
        ),
    ] = 0,
    tile_overlap: Annotated[
        int, typer.Option(min=0, help="Pixels that neighbouring tiles share and blend.", rich_help_panel=PICTURE)
    ] = 32,
    direction: Annotated[
        Literal["AtoB", "BtoA"] | None,
        typer.Option(help="Which way, of models that know both. Default: AtoB.", rich_help_panel=PICTURE),
    ] = None,
    cycle: Annotated[
        bool,
        typer.Option("--cycle", help="There and back: the input as both ways reconstruct it.", rich_help_panel=PICTURE),
    ] = False,
    style: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|SEED[:WEIGHT]",
            help="Of models that are told one: a picture, or a seed where styles can be drawn. "
            "Several are averaged by their weights.",
            rich_help_panel=STYLE,
        ),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|DIR", help="A picture of the style, or a folder: the mean of all.", rich_help_panel=STYLE
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The style's share; the rest is the input's own. Default: 1.", rich_help_panel=STYLE
        ),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Images of one size computed together on a GPU; on the CPU always one.",
            rich_help_panel=PICTURE,
        ),
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**32 - 1, help="Of dropout, and of the style where none is told.", rich_help_panel=PICTURE
        ),
    ] = 0,
    format: Annotated[
        Literal["keep", "png", "jpg", "webp"],
        typer.Option(
            help="keep: each input's own, png where that cannot be written. A file named with -o goes by its name.",
            rich_help_panel=IMAGES,
        ),
    ] = "png",
    suffix: Annotated[str, typer.Option(help="Added to each output's stem.", rich_help_panel=IMAGES)] = "",
    concat: Annotated[
        bool,
        typer.Option(
            "--concat",
            help="Input and output side by side; with --cycle the reconstruction too.",
            rich_help_panel=PICTURE,
        ),
    ] = False,
    recursive: Annotated[bool, typer.Option(help="Folders inside folders.", rich_help_panel=IMAGES)] = True,
    from_file: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="More inputs, from a file: one a line, or separated by NUL; - is standard input.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
) -> None:
    """Turn images into images: every input through a translator, in its own size.

    Prints one path per line. An output that the same request wrote is left as it is; what fails is named, and the rest
    written (exit 3). Videos keep their frames, rate, and sound where the container takes it.

    Example: cat a.jpg | ganctl translate MODEL - -o - > b.png
    """
    from ganctl.workflows.translate import TranslateRequest, prepare, run

    common = show.common()
    request = TranslateRequest(
        model=model, inputs=tuple(inputs or ()), out=out, size=size, seed=seed, format=format,
        tile=tile, tile_overlap=tile_overlap, direction=direction, cycle=cycle,
        styles=tuple(style or ()), likes=tuple(like or ()), alpha=alpha,
        batch_size=show.auto_number("--batch-size", batch_size),
        suffix=suffix, concat=concat, recursive=recursive, from_file=from_file, device=common.device,
        dtype=common.dtype, overwrite=common.overwrite, fail_fast=common.fail_fast,
    )  # fmt: skip
    if out == "-" and not common.dry_run:
        show.execute(partial(run, stdout=show.binary_stdout()), request, line=None)
    else:
        show.execute(run, request, check=prepare)
