"""`ganctl translate`."""

from functools import partial
from typing import Annotated, Literal

import typer

from ganctl.cli import show

IMAGES, PICTURE = "Images", "Picture"


def translate(
    model: Annotated[str, typer.Argument(help="A translator: zoo name, org/repo[@rev], or a local bundle or run.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT…", help="Files, folders, patterns, zip files, videos, or - for standard input."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
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
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one size computed together. Default: by size.", rich_help_panel=PICTURE),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="For models with dropout.", rich_help_panel=PICTURE)
    ] = 0,
    format: Annotated[
        Literal["keep", "png", "jpg", "webp"],
        typer.Option(help="keep: each input's own.", rich_help_panel=IMAGES),
    ] = "png",
    suffix: Annotated[str, typer.Option(help="Added to each output's stem.", rich_help_panel=IMAGES)] = "",
    concat: Annotated[
        bool, typer.Option("--concat", help="Input and output side by side.", rich_help_panel=PICTURE)
    ] = False,
    recursive: Annotated[bool, typer.Option(help="Folders inside folders.", rich_help_panel=IMAGES)] = True,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Inputs from a file, one a line; - is stdin.", rich_help_panel=IMAGES),
    ] = None,
) -> None:
    """Turn images into images: every input through a translator, in its own size.

    Prints one path per line. `cat a.jpg | ganctl translate MODEL - -o - > b.png`
    """
    from ganctl.workflows.translate import TranslateRequest, prepare, run

    common = show.common()
    request = TranslateRequest(
        model=model, inputs=tuple(inputs or ()), out=out, size=size, batch_size=batch_size, seed=seed, format=format,
        suffix=suffix, concat=concat, recursive=recursive, from_file=from_file, device=common.device,
        overwrite=common.overwrite, fail_fast=common.fail_fast,
    )  # fmt: skip
    if out == "-" and not common.dry_run:
        show.execute(partial(run, stdout=show.binary_stdout()), request, line=None)
    else:
        show.execute(run, request, check=prepare)
