"""`ganctl fid`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from ganctl.cli import show
from ganctl.errors import UsageError

PROTOCOL, IMAGES, PAIRS, SPEED = "Protocol", "Images", "Pairs", "Speed"
Mode = Literal["legacy_tensorflow", "legacy_pytorch", "clean"]


def fid(
    real: Annotated[str, typer.Argument(metavar="REAL", help="Folder, zip, IDX file, .npz statistics, or a model.")],
    fake: Annotated[
        str | None,
        typer.Argument(metavar="FAKE", help="The same; left out with --save-stats, or by metrics of one side (is)."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="ID[,ID]", help="fid, kid, is, pr, dc, c2st, ppl_…, eqt, …; with --pairs psnr, ssim, …. [fid]"
        ),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Compare image by image: psnr, ssim, ms-ssim, lpips.", rich_help_panel=PAIRS)
    ] = False,
    channels: Annotated[
        Literal["rgb", "y"] | None,
        typer.Option(help="Colours, or luma only, of psnr and ssim. Default: rgb.", rich_help_panel=PAIRS),
    ] = None,
    border: Annotated[
        int | None, typer.Option(help="Pixels shaved off every side first.", rich_help_panel=PAIRS)
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Which tool's resize. Default: legacy_tensorflow.", rich_help_panel=PROTOCOL),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(help="Inception features: 64, 192, 768 or 2048. Default: 2048.", rich_help_panel=PROTOCOL),
    ] = None,
    kid_subsets: Annotated[int, typer.Option(help="Subsets that KID averages.", rich_help_panel=PROTOCOL)] = 100,
    kid_subset_size: Annotated[int, typer.Option(help="Images of each.", rich_help_panel=PROTOCOL)] = 1000,
    num: Annotated[
        int | None,
        typer.Option(
            "--num",
            "-n",
            help="Images a model draws (50000; over LeNet 10000); with no model, of each side (all).",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed of a model; the draw of -n.", rich_help_panel=IMAGES)] = 0,
    classes: Annotated[
        str | None,
        typer.Option("--class", metavar="ID|NAME|LIST", help="Of a model's images.", rich_help_panel=IMAGES),
    ] = None,
    trunc: Annotated[
        float | None,
        typer.Option(metavar="PSI", help="Truncation of a model's images. Default: 1, none.", rich_help_panel=IMAGES),
    ] = None,
    mirror: Annotated[bool, typer.Option(help="REAL also mirrored.", rich_help_panel=IMAGES)] = False,
    resolution: Annotated[
        int | None, typer.Option(help="Crop and resize every image to NxN first.", rich_help_panel=IMAGES)
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Score without unreadable images; exit 3.", rich_help_panel=IMAGES)
    ] = False,
    save_stats: Annotated[str | None, typer.Option(metavar="FILE.npz", help="Keep the statistics of REAL.")] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="A page: scores, nearest neighbours, best and worst.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images computed together.", rich_help_panel=SPEED)] = 64,
    workers: Annotated[int, typer.Option(help="Threads that decode.", rich_help_panel=SPEED)] = 4,
    cache: Annotated[
        bool, typer.Option(help="Remember REAL, and what an interrupted run measured.", rich_help_panel=SPEED)
    ] = True,
) -> None:
    """Score images: how far two sets of them are apart, how good and how varied they are.

    Prints `fid<TAB>value`. `ganctl fid real/ --save-stats real.npz && ganctl fid real.npz fakes/`
    """
    from ganctl.workflows import fid as workflow

    common = show.common()
    shared = {
        "real": real,
        "num": num,
        "seed": seed,
        "workers": workers,
        "skip_bad": skip_bad,
        "fail_fast": common.fail_fast,
        "device": common.device,
    }
    sets = {"--mode": mode, "--dims": dims, "--mirror": mirror, "--resolution": resolution, "--save-stats": save_stats}
    sets |= {"--report": report, "--class": classes, "--trunc": trunc}
    paired = {"--channels": channels, "--border": border}
    for option, value in (sets if pairs else paired).items():
        if value is not None and value is not False:
            why = "pairs are compared as they are" if pairs else "it belongs to metrics of image pairs"
            raise UsageError(f"cannot use {option}", why, "leave out --pairs" if pairs else "add --pairs")
    if pairs:
        _pairs({**shared, "fake": fake, "metrics": metrics, "channels": channels, "border": border})
        return
    request = workflow.FidRequest(
        **shared,
        fake=fake,
        metrics=metrics or "fid",
        mode=mode,
        dims=dims,
        kid_subsets=kid_subsets,
        kid_subset_size=kid_subset_size,
        classes=classes,
        trunc=trunc,
        mirror=mirror,
        resolution=resolution,
        save_stats=save_stats,
        report=report,
        batch_size=batch_size,
        cache=cache,
        dtype=common.dtype,
        overwrite=common.overwrite,
    )
    show.execute(workflow.run, request, line=_line, bare=_value, check=workflow.prepare)


def _pairs(given: Mapping[str, Any]) -> None:
    from ganctl.workflows.pairs import PairsRequest, prepare, run

    request = PairsRequest(**{k: v for k, v in given.items() if v is not None})
    show.execute(run, request, line=_line, bare=_value, check=prepare)


def _value(result: Mapping[str, Any]) -> str:
    if "path" in result:
        return result["path"]
    return _number(result[result["metric"]])


def _number(value: float | None) -> str:
    if value is None:  # PSNR of equal images
        return "inf"
    # Small features have small distances, which four decimals would show as nothing. Equal sides do give nothing, up
    # to a rounding error of either sign.
    return f"{value:.4g}" if 1e-9 < abs(value) < 1e-2 else f"{round(value, 4) + 0.0:.4f}"


def _line(result: Mapping[str, Any]) -> str:
    if "path" in result:
        return result["path"]
    spread = result.get("std")
    return "\t".join([result["metric"], _value(result), *([_number(spread)] if spread is not None else [])])
