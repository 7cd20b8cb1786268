"""`ganctl zoo`: the pretrained networks."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from ganctl.cli import show

app = typer.Typer(help="Pretrained networks: list, pull, check, remove, publish.")


COLUMNS = ("name", "task", "px", "classes", "licence", "size", "here")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A zoo name.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Zoo names.")]


@app.command("list")
def list_models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a shell pattern.")] = "",
    task: Annotated[
        Literal["sample", "translate", "invert", "classify", "features"] | None,
        typer.Option(metavar="TASK", help="Only sample, translate, invert, classify or features."),
    ] = None,
    license: Annotated[str, typer.Option(help="Only this licence, such as Apache-2.0.")] = "",
    cached: Annotated[bool, typer.Option("--cached", help="Only what is on this machine.")] = False,
) -> None:
    """List the zoo: name, task, resolution, classes, licence, size, cached."""
    from ganctl.workflows.zoo import ListRequest
    from ganctl.workflows.zoo import list_models as run

    request = ListRequest(pattern=pattern, task=task or "", license=license, cached=cached)
    reading = show.for_reading()
    rows = show.execute(
        run, request, line=None if reading else lambda r: "\t".join(_cells(r)), bare=lambda r: r["name"]
    )
    if reading and rows:
        show.table(COLUMNS, map(_cells, rows))


@app.command()
def info(name: Name) -> None:
    """Show one entry: its card, source, revision, sha256 and scores."""
    from ganctl.workflows.zoo import NameRequest
    from ganctl.workflows.zoo import info as run

    show.execute(run, NameRequest(name=name), line=_facts)


@app.command()
def pull(
    names: Names = None,
    all: Annotated[bool, typer.Option("--all", help="The whole zoo.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="The networks that fid needs.")] = False,
) -> None:
    """Download models, each checked against its sha256; org/repo[@revision] of the Hub works too."""
    from ganctl.workflows.zoo import PullRequest
    from ganctl.workflows.zoo import pull as run

    request = PullRequest(names=tuple(names or ()), all=all, metrics=metrics)
    show.execute(run, request, line=lambda r: f"{r['name']}\t{r['status']}\t{r['path']}", bare=lambda r: r["path"])


@app.command()
def path(name: Name) -> None:
    """Print where a model's weights lie on this machine."""
    from ganctl.workflows.zoo import NameRequest
    from ganctl.workflows.zoo import path as run

    show.execute(run, NameRequest(name=name))


@app.command()
def verify(names: Names = None) -> None:
    """Check sha256 and a fixed-seed picture; without names, everything that is on this machine."""
    from ganctl.workflows.zoo import VerifyRequest
    from ganctl.workflows.zoo import verify as run

    request = VerifyRequest(names=tuple(names or ()))
    show.execute(
        run,
        request,
        line=lambda r: f"{r['name']}\t{r['status']}\t{r['sha256']}\t{r['hash'] or '-'}",
        bare=lambda r: r["name"],
    )


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Zoo names.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really remove; nothing is ever asked.")] = False,
) -> None:
    """Remove downloads from this machine."""
    from ganctl.workflows.zoo import RemoveRequest
    from ganctl.workflows.zoo import remove as run

    request = RemoveRequest(names=tuple(names), yes=yes)
    show.execute(run, request, line=lambda r: f"{r['name']}\t{r['status']}", bare=lambda r: r["name"])


@app.command()
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a bundle or a zoo name.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO", help="The repository on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    license: Annotated[str, typer.Option(help="The licence, where the card names none.")] = "",
) -> None:
    """Publish a bundle on the Hub: model card, config and safetensors."""
    from ganctl.workflows.push import PushRequest, check
    from ganctl.workflows.push import push as work

    request = PushRequest(run=run, repo=repo, private=private, license=license)
    show.execute(work, request, line=lambda r: r["url"], check=check)


def _cells(r: Mapping[str, Any]) -> tuple[str, ...]:
    size = _size(r["bytes"]) if r["bytes"] else "-"
    where = "built-in" if r["builtin"] and r["cached"] else "cached" if r["cached"] else "-"
    licence = f"{r['license']}{' (non-commercial)' if r['noncommercial'] else ''}"
    return (r["name"], r["task"], str(r["resolution"] or "-"), str(r["classes"] or "-"), licence, size, where)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _facts(r: Mapping[str, Any]) -> str:
    rows = [(key, _fact(value)) for key, value in r.items()]
    return "\n".join(show.aligned(rows) if show.for_reading() else map("\t".join, rows))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
