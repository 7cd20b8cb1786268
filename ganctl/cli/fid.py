"""`ganctl fid`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from ganctl.cli import show

PROTOCOL, IMAGES, SPEED = "Protocol", "Images", "Speed"
Mode = Literal["legacy_tensorflow", "legacy_pytorch", "clean"]


def fid(
    real: Annotated[str, typer.Argument(metavar="REAL", help="Folder, zip, IDX file, .npz statistics, or a model.")],
    fake: Annotated[
        str | None, typer.Argument(metavar="FAKE", help="The same; may be left out with --save-stats.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="ID[,ID]", help="fid, fd-lenet (digits, offline), fd-lenet-fashion.")
    ] = "fid",
    mode: Annotated[
        Mode | None,
        typer.Option(help="Which tool's resize. Default: legacy_tensorflow.", rich_help_panel=PROTOCOL),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(help="Inception features: 64, 192, 768 or 2048. Default: 2048.", rich_help_panel=PROTOCOL),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            "--num",
            "-n",
            help="Images a model draws (fid: 50000, fd-…: 10000); with no model, of each side (all).",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed of a model; the draw of -n.", rich_help_panel=IMAGES)] = 0,
    mirror: Annotated[bool, typer.Option(help="REAL also mirrored.", rich_help_panel=IMAGES)] = False,
    resolution: Annotated[
        int | None, typer.Option(help="Crop and resize every image to NxN first.", rich_help_panel=IMAGES)
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Score without unreadable images; exit 3.", rich_help_panel=IMAGES)
    ] = False,
    save_stats: Annotated[str | None, typer.Option(metavar="FILE.npz", help="Keep the statistics of REAL.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images computed together.", rich_help_panel=SPEED)] = 64,
    workers: Annotated[int, typer.Option(help="Threads that decode.", rich_help_panel=SPEED)] = 4,
    cache: Annotated[bool, typer.Option(help="Remember the statistics of REAL.", rich_help_panel=SPEED)] = True,
) -> None:
    """Score images: the Fréchet distance between two sets of them.

    Prints `fid<TAB>value`. `ganctl fid real/ --save-stats real.npz && ganctl fid real.npz fakes/`
    """
    from ganctl.workflows.fid import FidRequest, prepare, run

    common = show.common()
    request = FidRequest(
        real=real,
        fake=fake,
        metrics=metrics,
        mode=mode,
        dims=dims,
        num=num,
        seed=seed,
        mirror=mirror,
        resolution=resolution,
        skip_bad=skip_bad,
        save_stats=save_stats,
        batch_size=batch_size,
        workers=workers,
        cache=cache,
        fail_fast=common.fail_fast,
        device=common.device,
        overwrite=common.overwrite,
    )
    show.execute(run, request, line=_line, bare=_value, check=prepare)


def _value(result: Mapping[str, Any]) -> str:
    if "path" in result:
        return result["path"]
    value = result[result["metric"]]
    # Small features have small distances, which four decimals would show as nothing. Equal sides do give nothing, up
    # to a rounding error of either sign.
    return f"{value:.4g}" if 1e-9 < abs(value) < 1e-2 else f"{round(value, 4) + 0.0:.4f}"


def _line(result: Mapping[str, Any]) -> str:
    return result["path"] if "path" in result else f"{result['metric']}\t{_value(result)}"
