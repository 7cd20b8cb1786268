"""`ganctl export`."""

from typing import Annotated

import typer

from ganctl.cli import show


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name, org/repo, run or bundle.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="x.onnx or x.pt2. Default: out/MODEL/export/MODEL.onnx"),
    ] = None,
) -> None:
    """Write a network as ONNX or as PyTorch's exported program, which run without ganctl.

    Its outputs are compared with the network's before the file appears. Prints the file's path.
    """
    from ganctl.workflows.export import ExportRequest, check, run

    request = ExportRequest(model=model, out=out, overwrite=show.common().overwrite)
    show.execute(run, request, check=check)
