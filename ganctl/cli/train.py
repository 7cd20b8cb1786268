"""`ganctl train`."""

from typing import Annotated, Literal

import typer

from ganctl.cli import launch, show
from ganctl.errors import UsageError

DATA, MODEL, RUN = "Data", "Model and optimiser", "Run"
RESUME = "auto: go on; never: refuse an old run; PATH: begin from its state."


def train(
    recipe: Annotated[str, typer.Argument(help="Built-in recipe, model family, YAML file, or an old run.")],
    data: Annotated[str | None, typer.Argument(help="Folder, zip, tars or IDX file; default: the recipe's.")] = None,
    outdir: Annotated[str | None, typer.Option("--outdir", "-o", help="Run folder [runs/RECIPE].")] = None,
    data_a: Annotated[str | None, typer.Option(help="Side A of pairs.", rich_help_panel=DATA)] = None,
    data_b: Annotated[str | None, typer.Option(help="Side B of pairs.", rich_help_panel=DATA)] = None,
    data_pairs: Annotated[str | None, typer.Option(help="Side-by-side pairs.", rich_help_panel=DATA)] = None,
    resolution: Annotated[int | None, typer.Option(help="Image side [from data].", rich_help_panel=DATA)] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 colour [from data].", rich_help_panel=DATA)] = None,
    subset: Annotated[int | None, typer.Option(help="Only the first N images.", rich_help_panel=DATA)] = None,
    mirror: Annotated[bool | None, typer.Option(help="Random left-right flips.", rich_help_panel=DATA)] = None,
    workers: Annotated[int, typer.Option(help="Threads that decode images.", rich_help_panel=DATA)] = 4,
    batch: Annotated[int | None, typer.Option(help="Images a step, all GPUs.", rich_help_panel=MODEL)] = None,
    batch_gpu: Annotated[int | None, typer.Option(help="Images at once; accumulates.", rich_help_panel=MODEL)] = None,
    loss: Annotated[str | None, typer.Option(help="hinge, … [the family's].", rich_help_panel=MODEL)] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of R1.", rich_help_panel=MODEL)] = None,
    glr: Annotated[float | None, typer.Option(help="Learning rate of G.", rich_help_panel=MODEL)] = None,
    dlr: Annotated[float | None, typer.Option(help="Learning rate of D.", rich_help_panel=MODEL)] = None,
    kimg: Annotated[float | None, typer.Option(help="Length, thousands of images.", rich_help_panel=MODEL)] = None,
    ema_kimg: Annotated[float | None, typer.Option(help="Half-life of G_ema.", rich_help_panel=MODEL)] = None,
    aug: Annotated[
        Literal["none", "ada", "fixed", "diffaug", "bcr"] | None,
        typer.Option(help="What images pass before D sees them.", rich_help_panel=MODEL),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="D's sign that ada aims at [0.6].", rich_help_panel=MODEL)
    ] = None,
    p: Annotated[float | None, typer.Option("--p", help="Strength of fixed.", rich_help_panel=MODEL)] = None,
    augpipe: Annotated[str | None, typer.Option(help="blit, geom, … bgc [bgc].", rich_help_panel=MODEL)] = None,
    freezed: Annotated[int | None, typer.Option(help="First layers of D that stay.", rich_help_panel=MODEL)] = None,
    tf32: Annotated[bool, typer.Option(help="TF32 products on CUDA.", rich_help_panel=MODEL)] = True,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value.", rich_help_panel=MODEL)] = None,
    init_from: Annotated[str | None, typer.Option(help="Start from a model's weights.", rich_help_panel=RUN)] = None,
    resume: Annotated[str, typer.Option(metavar="auto|never|PATH", help=RESUME, rich_help_panel=RUN)] = "auto",
    gpus: Annotated[int, typer.Option(help="Processes, one a device.", rich_help_panel=RUN)] = 1,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order, noise.", rich_help_panel=RUN)] = None,
    snap: Annotated[float | None, typer.Option(help="kimg between snapshots.", rich_help_panel=RUN)] = None,
    keep: Annotated[int | None, typer.Option(help="Newest snapshots kept, and best.", rich_help_panel=RUN)] = None,
    metrics: Annotated[str | None, typer.Option(help="Scores at snapshots, or none.", rich_help_panel=RUN)] = None,
    metric_every: Annotated[int | None, typer.Option(help="Score each N-th snapshot.", rich_help_panel=RUN)] = None,
    log: Annotated[str, typer.Option(help="jsonl[,tensorboard].", rich_help_panel=RUN)] = "jsonl",
    max_time: Annotated[str | None, typer.Option(help="Save and exit 75 after 3h55m.", rich_help_panel=RUN)] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Time a few steps.", rich_help_panel=RUN)] = False,
) -> None:
    """Train a recipe on data. The same command again goes on exactly where it stopped."""
    from ganctl.workflows.stopping import parse_duration
    from ganctl.workflows.train import TrainRequest, described, precheck, run

    common = show.common()
    if (data_a and data_pairs) or bool(data_a) != bool(data_b):
        raise UsageError("cannot use these data options", "pairs are --data-a with --data-b, or --data-pairs alone")
    flags = {
        "config": {"resolution": resolution, "channels": channels, "loss": loss, "glr": glr, "dlr": dlr}
        | {"r1_gamma": gamma},
        "data": {"path": data_a or data_pairs, "path_b": data_b, "subset": subset, "mirror": mirror},
        "train": {"batch": batch, "batch_gpu": batch_gpu, "kimg": kimg, "ema_kimg": ema_kimg, "seed": seed}
        | {"snap": snap, "keep": keep, "init_from": init_from, "metric_every": metric_every}
        | {"metrics": None if metrics is None else [m for m in metrics.split(",") if m and m != "none"]}
        | {"aug": aug, "aug_target": target, "aug_p": p, "aug_pipe": augpipe, "freezed": freezed}
        | {"dtype": None if common.dtype == "auto" else common.dtype},
    }
    request = TrainRequest(
        recipe=recipe,
        data=data,
        outdir=outdir,
        changes={f"{s}.{k}": v for s, options in flags.items() for k, v in options.items() if v is not None},
        settings=tuple(settings or ()),
        device=common.device,
        workers=workers,
        tf32=tf32,
        resume=resume,
        log=tuple(name for name in log.split(",") if name),
        max_seconds=parse_duration(max_time) if max_time else None,
        overwrite=common.overwrite,
        estimate=estimate,
    )
    if common.dry_run:
        show.execute(run, described(request))
        return
    precheck(request)
    if launch.launch(gpus) is not None:
        return
    with show.training_table() as on_tick:
        show.execute(
            lambda r, reporter: run(r, reporter, on_tick),
            request,
            line=lambda r: r.get("snapshot") or f"{r['sec_per_kimg']} s/kimg, {r['eta']} for {r['kimg']:g} kimg",
        )
