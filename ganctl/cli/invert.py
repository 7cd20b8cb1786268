"""`ganctl invert`."""

from typing import Annotated, Literal

import typer

from ganctl.cli import show

IMAGES, SEARCH, EXTRA = "Images", "Search", "Extra files"


def invert(
    model: Annotated[str, typer.Argument(help="A sampler or autoencoder: zoo name, org/repo[@rev], bundle or run.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT…", help="Files, folders, patterns, zip files, or -.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--outdir", "-o", metavar="DIR|x.npz", help="Default: out/MODEL/invert/", rich_help_panel=IMAGES),
    ] = None,
    method: Annotated[
        Literal["optimize", "encoder"] | None,
        typer.Option(help="Default: an autoencoder's encoder, else optimize.", rich_help_panel=SEARCH),
    ] = None,
    space: Annotated[
        Literal["z", "w", "w+"] | None,
        typer.Option(
            help="Where to search; w+ has a style for each layer. Default: w where the model has it, else z.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="ID|NAME",
            help="Of a conditional model; z needs it, in w it is where the search starts. Default: in w all of them.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise", help="In w and w+: search the noise maps too.", rich_help_panel=SEARCH)
    ] = False,
    loss: Annotated[
        Literal["lpips", "l2", "lpips+l2"] | None,
        typer.Option(help="What is made small. Default: lpips where it is at hand, else l2.", rich_help_panel=SEARCH),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of Adam, per image.", rich_help_panel=SEARCH)] = 1000,
    lr: Annotated[float, typer.Option(help="Adam's highest learning rate.", rich_help_panel=SEARCH)] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the starting points.", rich_help_panel=SEARCH)] = 0,
    init: Annotated[
        str, typer.Option(metavar="mean|F.npz", help="Where every image starts.", rich_help_panel=SEARCH)
    ] = "mean",
    mask: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="White pixels do not count (inpainting).", rich_help_panel=SEARCH),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.", rich_help_panel=SEARCH)] = 1,
    save_video: Annotated[
        bool, typer.Option("--save-video", help="<stem>.mp4 of the search; needs PyAV.", rich_help_panel=EXTRA)
    ] = False,
    save_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="<stem>-stepNNNNN.png.", rich_help_panel=EXTRA)
    ] = None,
    recursive: Annotated[bool, typer.Option(help="Folders inside folders.", rich_help_panel=IMAGES)] = True,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Inputs from a file, one a line; - is stdin.", rich_help_panel=IMAGES),
    ] = None,
) -> None:
    """Find the latent behind each image: <stem>.npz and its picture <stem>-rec.png.

    Prints `path.npz<TAB>PSNR in dB`; -q only the path. `sample --latents` and `interpolate --latents` read the files.
    """
    from ganctl.workflows.invert import InvertRequest, resolve, run

    common = show.common()
    request = InvertRequest(
        model=model, inputs=tuple(inputs or ()), out=out, method=method, space=space, classes=classes, noise=noise,
        loss=loss, steps=steps, lr=lr, seed=seed, init=init, mask=mask, batch_size=batch_size,
        save_video=save_video, save_every=save_every, recursive=recursive, from_file=from_file,
        device=common.device, overwrite=common.overwrite, fail_fast=common.fail_fast,
    )  # fmt: skip
    show.execute(run, request, line=lambda r: f"{r['path']}\t{r['psnr']:.2f}", bare=lambda r: r["path"], check=resolve)
