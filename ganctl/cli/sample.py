"""`ganctl sample`."""

import functools
from typing import Annotated, Literal

import typer

from ganctl.cli import show

WHICH, STYLE, MIX, HOW, WHERE = "Which images", "Style (StyleGAN family)", "Style mixing", "How", "Where to"


# fmt: off
def sample(
    model: Annotated[
        str, typer.Argument(help="Zoo name, org/repo[@rev], run or bundle folder.", show_default=True)
    ] = "dcgan-fashion-mnist",
    num: Annotated[int | None, typer.Option("-n", "--num", help="How many. Default: 1, or what the grid holds.",
        rich_help_panel=WHICH)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image; image i uses seed + i.",
        rich_help_panel=WHICH)] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="Seeds, as in 0-35,85.",
        rich_help_panel=WHICH)] = None,
    latents: Annotated[list[str] | None, typer.Option(metavar="F.npz…", rich_help_panel=WHICH,
        help="In place of seeds: from --save-latents or invert.")] = None,
    classes: Annotated[str | None, typer.Option("--class", metavar="ID|NAME|LIST|all", rich_help_panel=WHICH,
        help="Of a conditional model, each for every seed. Default: drawn by the seed.")] = None,
    sweep: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=WHICH,
        help="InfoGAN: its Nth code from -2 to 2, over the grid's columns.")] = None,
    trunc: Annotated[float | None, typer.Option(metavar="PSI", rich_help_panel=STYLE,
        help="Truncation: 1 is none, 0 the mean picture. Default: the model card's, else 1.")] = None,
    trunc_cutoff: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=STYLE,
        help="Truncate only the first N layers. Default: all.")] = None,
    noise_mode: Annotated[Literal["const", "random", "none"] | None, typer.Option(rich_help_panel=STYLE,
        help="Noise maps: the stored ones, fresh ones by the seed, or none. Default: const.")] = None,
    noise_layers: Annotated[str | None, typer.Option(metavar="LAYERS", rich_help_panel=STYLE,
        help="Only these add noise, as in 0-7. Default: all.")] = None,
    translate: Annotated[str | None, typer.Option(metavar="X,Y", rich_help_panel=STYLE,
        help="StyleGAN3: move the picture right and down, in sides of it.")] = None,
    rotate: Annotated[float | None, typer.Option(metavar="DEG", rich_help_panel=STYLE,
        help="StyleGAN3: turn it counter-clockwise first.")] = None,
    rows: Annotated[str | None, typer.Option(metavar="SEEDS", rich_help_panel=MIX,
        help="One sheet mix.png: each row's picture …")] = None,
    cols: Annotated[str | None, typer.Option(metavar="SEEDS", rich_help_panel=MIX,
        help="… with some layers' styles from each column's.")] = None,
    styles: Annotated[str | None, typer.Option(metavar="LAYERS", rich_help_panel=MIX,
        help="Which layers. Default: 0-6, or the first half of fewer than 14.")] = None,
    out: Annotated[str | None, typer.Option("-o", "--outdir", metavar="DIR|x.png|x.zip|-", rich_help_panel=WHERE,
        help="A folder, one image, a zip, or - for stdout (image, or tar of many). Default: out/MODEL/sample.")] = None,
    format: Annotated[Literal["png", "jpg", "webp", "npy"] | None, typer.Option(help="Default: png, or -o's suffix.",
        rich_help_panel=WHERE)] = None,
    quality: Annotated[int, typer.Option(help="Of jpg and webp, 1 to 100.", rich_help_panel=WHERE)] = 95,
    grid: Annotated[str | None, typer.Option(metavar="CxR", help="Also one sheet grid.png, columns x rows; with -o "
        "x.png or - only the sheet.", rich_help_panel=WHERE)] = None,
    save_latents: Annotated[bool, typer.Option("--save-latents", help="Also seedNNNN.npz with z and w.",
        rich_help_panel=WHERE)] = False,
    subdirs: Annotated[bool, typer.Option("--subdirs", help="1000 images per folder.", rich_help_panel=WHERE)] = False,
    size: Annotated[int | None, typer.Option(metavar="N", help="Resize to N pixels (shorter side). Default: native.",
        rich_help_panel=HOW)] = None,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", rich_help_panel=HOW, help="Images at once on a "
        "GPU; auto halves when memory is short. On the CPU always one, so that no byte depends on it.")] = "auto",
) -> None:
    """Make images from seeds.

    One file per seed, and one path per line on stdout. The same command again makes only what is missing.

    ganctl sample -n 64 --grid 8x8
    """
    common = show.common()
    from ganctl.workflows.sample import SampleRequest, resolve, run

    request = SampleRequest(
        model=model, num=num, seed=seed, seeds=seeds, latents=tuple(latents or ()), classes=classes,
        sweep=sweep, trunc=trunc, trunc_cutoff=trunc_cutoff, noise_mode=noise_mode, noise_layers=noise_layers,
        translate=translate, rotate=rotate, rows=rows, cols=cols, styles=styles, out=out, format=format,
        quality=quality, grid=grid, save_latents=save_latents, subdirs=subdirs, size=size,
        batch_size=show.auto_number("--batch-size", batch_size), device=common.device, dtype=common.dtype,
        overwrite=common.overwrite,
    )
    stream = show.binary_stdout() if out == "-" and not common.dry_run else None
    show.execute(functools.partial(run, stdout=stream), request, check=resolve)
# fmt: on
