"""`ganctl train`."""

from typing import Annotated, Literal

import typer

from ganctl.cli import launch, show

DATA, MODEL, RUN = "Data", "Model and optimiser", "Run"
Resume = Literal["auto", "never"]


def train(
    recipe: Annotated[str, typer.Argument(help="Built-in recipe, model family, YAML file, or an old run.")],
    data: Annotated[str | None, typer.Argument(help="Folder, zip or IDX file; default: the recipe's.")] = None,
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
    loss: Annotated[str | None, typer.Option(help="The family's loss.", rich_help_panel=MODEL)] = None,
    glr: Annotated[float | None, typer.Option(help="Learning rate of G.", rich_help_panel=MODEL)] = None,
    dlr: Annotated[float | None, typer.Option(help="Learning rate of D.", rich_help_panel=MODEL)] = None,
    kimg: Annotated[float | None, typer.Option(help="Length, thousands of images.", rich_help_panel=MODEL)] = None,
    ema_kimg: Annotated[float | None, typer.Option(help="Half-life of G_ema.", rich_help_panel=MODEL)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value.", rich_help_panel=MODEL)] = None,
    init_from: Annotated[str | None, typer.Option(help="Start from a model's weights.", rich_help_panel=RUN)] = None,
    resume: Annotated[Resume, typer.Option(help="auto: go on; never: refuse.", rich_help_panel=RUN)] = "auto",
    gpus: Annotated[int, typer.Option(help="Processes, one a device.", rich_help_panel=RUN)] = 1,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order, noise.", rich_help_panel=RUN)] = None,
    snap: Annotated[float | None, typer.Option(help="kimg between snapshots.", rich_help_panel=RUN)] = None,
    keep: Annotated[int | None, typer.Option(help="Newest snapshots kept, and best.", rich_help_panel=RUN)] = None,
    metrics: Annotated[str | None, typer.Option(help="Scores at snapshots, or none.", rich_help_panel=RUN)] = None,
    max_time: Annotated[str | None, typer.Option(help="Save and exit 75 after 3h55m.", rich_help_panel=RUN)] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Time a few steps.", rich_help_panel=RUN)] = False,
) -> None:
    """Train a recipe on data. The same command again goes on exactly where it stopped."""
    from ganctl.workflows.train import TrainRequest, check, parse_duration, run

    common = show.common()
    named = {
        "data.path": data_a or data_pairs,
        "data.path_b": data_b,
        **{f"config.{k}": v for k, v in (("resolution", resolution), ("channels", channels), ("loss", loss))},
        **{f"config.{k}": v for k, v in (("glr", glr), ("dlr", dlr))},
        **{f"data.{k}": v for k, v in (("subset", subset), ("mirror", mirror))},
        **{f"train.{k}": v for k, v in (("batch", batch), ("batch_gpu", batch_gpu), ("kimg", kimg), ("seed", seed))},
        **{f"train.{k}": v for k, v in (("ema_kimg", ema_kimg), ("snap", snap), ("keep", keep))},
        "train.metrics": None if metrics is None else tuple(m for m in metrics.split(",") if m not in ("", "none")),
        "train.dtype": None if common.dtype == "auto" else common.dtype,
    }
    request = TrainRequest(
        recipe=recipe,
        data=data,
        outdir=outdir,
        changes={k: v for k, v in named.items() if v is not None},
        settings=tuple(settings or ()),
        device=common.device,
        workers=workers,
        resume=resume == "auto",
        init_from=init_from,
        max_seconds=parse_duration(max_time) if max_time else None,
        estimate=estimate,
    )
    if not common.dry_run and launch.launch(gpus) is not None:
        return
    with show.training_table() as on_tick:
        show.execute(
            lambda r, reporter: run(r, reporter, on_tick),
            request,
            line=lambda r: r.get("path") or f"{r['sec_per_kimg']} s/kimg, {r['eta']} for {r['kimg']:g} kimg",
            check=check,
        )
