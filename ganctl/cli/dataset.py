"""`ganctl dataset`: sets of images, made and checked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from ganctl.cli import show
from ganctl.cli.app import Group
from ganctl.errors import printable


class WithMake(Group):
    """`ganctl dataset SRC …` is `ganctl dataset make SRC …`."""

    default = "make"


GROUP = WithMake


app = typer.Typer(help="Make a data set of images (ganctl dataset SRC -o DEST is short for make), or check one.")

Source = Annotated[str, typer.Argument(metavar="SRC", help="Folder, zip, tar, 'shard-{000..127}.tar' or IDX file.")]


@app.command()
def make(
    source: Source,
    out: Annotated[
        str, typer.Option("--outdir", "-o", metavar="DEST", help="Folder, .zip, .tar, or 'x-{000..007}.tar' for eight.")
    ],
    resolution: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of every picture. Default: as they are.")
    ] = None,
    transform: Annotated[
        Literal["center-crop", "center-crop-wide", "pad"] | None,
        typer.Option(help="How they get its proportions. Default: center-crop."),
    ] = None,
    labels: Annotated[
        Literal["folders", "json"] | None,
        typer.Option(help="Classes from sub-folders, or as written down. Default: whichever there are."),
    ] = None,
    max_images: Annotated[int | None, typer.Option(metavar="N", help="The first N only.")] = None,
) -> None:
    """Write images in one size and layout, with their classes.

    A folder or zip gets PNG and dataset.json, as NVIDIA's tools read them; a tar is a WebDataset. Prints DEST, each tar
    on a line. Exit code 3 when some images cannot be read: the others are written.
    """
    from ganctl.workflows.dataset import DatasetRequest, check, run

    common = show.common()
    request = DatasetRequest(
        source=source, out=out, resolution=resolution, transform=transform, labels=labels, max_images=max_images,
        fail_fast=common.fail_fast, overwrite=common.overwrite,
    )  # fmt: skip
    show.execute(run, request, check=check)


@app.command()
def check(source: Source) -> None:
    """Tell sizes, classes, duplicates, and what cannot be read.

    Exit code 0, or 3 when an image cannot be read. -q prints only those.
    """
    from ganctl.workflows.dataset_check import CheckRequest, run
    from ganctl.workflows.dataset_check import check as precheck

    show.execute(run, CheckRequest(source=source), line=_lines, bare=_bad, check=precheck)


def _lines(r: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("images", str(r["images"]))]
    for key, name in (("formats", "format"), ("sizes", "size"), ("modes", "mode"), ("notes", "note")):
        rows += [(name, value, str(n)) for value, n in r[key].items()]
    rows += [("class", name, str(n)) for name, n in r["classes"].items()]
    rows += [("captions", str(r["captions"]))] * bool(r["captions"])
    rows += [("left out", row["name"], row["why"]) for row in r["left_out"]]
    rows += [("unreadable", row["name"], row["why"]) for row in r["unreadable"]]
    rows += [("duplicate", row["name"], row["same_as"]) for row in r["duplicates"]]
    if show.for_reading():
        return "\n".join(show.aligned((*row, "")[:3] for row in rows))
    return "\n".join("\t".join(map(printable, row)) for row in rows)


def _bad(r: Mapping[str, Any]) -> str | None:
    return "\n".join(row["name"] for row in r["unreadable"]) or None
