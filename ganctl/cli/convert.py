"""`ganctl convert`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ganctl.cli import show

FOREIGN = "Where the layout alone does not tell"


def convert(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="IN", help="A .pth, .pt, .ckpt, .pkl or .safetensors file, or a bundle, snapshot or run."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--outdir", "-o", metavar="BUNDLE/", help="The folder. Default: out/IN/convert/")
    ] = None,
    license: Annotated[str, typer.Option(help="The weights' licence, such as MIT, for the bundle's card.")] = "",
    list_layouts: Annotated[bool, typer.Option("--list", help="Print the layouts that are known.")] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The model family, such as dcgan.", rich_help_panel=FOREIGN)
    ] = "",
    beside: Annotated[
        str,
        typer.Option(
            "--with", metavar="FILE", help="The rest of a network that is kept in two files.", rich_help_panel=FOREIGN
        ),
    ] = "",
    net: Annotated[
        str, typer.Option(metavar="KEY", help="Which of a file's networks to take.", rich_help_panel=FOREIGN)
    ] = "",
    channel_order: Annotated[
        str,
        typer.Option(metavar="rgb|bgr", help="Of an OpenMMLab file whose name does not tell.", rich_help_panel=FOREIGN),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A number of the family's config.", rich_help_panel=FOREIGN),
    ] = None,
) -> None:
    """Turn published weights into a bundle: read as data, never executed, and checked before it is kept.

    A run or bundle gives a bundle of its best network alone. Prints the bundle's path.
    """
    from ganctl.workflows.convert import ConvertRequest, check, layouts, run

    if list_layouts:
        show.execute(lambda _, reporter: layouts(reporter), {"list": True}, line=_layout, bare=lambda r: r["model"])
        return
    common = show.common()
    request = ConvertRequest(
        source=source or "", out=out, model=model, beside=beside, net=net, license=license,
        settings=tuple(settings or ()), channel_order=channel_order, overwrite=common.overwrite,
    )  # fmt: skip
    show.execute(run, request, check=check)


def _layout(r: Mapping[str, Any]) -> str:
    return f"{r['model']}\t{r['layout']}"
