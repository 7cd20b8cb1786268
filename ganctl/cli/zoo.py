"""`ganctl zoo`: the pretrained networks."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from ganctl.cli import show

app = typer.Typer(help="Pretrained networks: list, pull, check, remove, publish.")

Task = Literal["sample", "translate", "invert", "classify", "features"]

COLUMNS = ("name", "task", "px", "classes", "licence", "size", "here", "score")
SPARE = ("classes", "size", "px", "task")
"""What a narrow terminal does without, the first first."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="A zoo name.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Zoo names.")]


@app.command("list")
def list_models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a shell pattern.")] = "",
    task: Annotated[
        Task | None,
        typer.Option(metavar="TASK", help="Only sample, translate, invert, classify or features."),
    ] = None,
    license: Annotated[str, typer.Option(help="Only this licence, such as Apache-2.0.")] = "",
    cached: Annotated[bool, typer.Option("--cached", help="Only what is on this machine.")] = False,
) -> None:
    """List the zoo: name, task, resolution, classes, licence, size, cached, score."""
    from ganctl.workflows.zoo import ListRequest
    from ganctl.workflows.zoo import list_models as run

    request = ListRequest(pattern=pattern, task=task or "", license=license, cached=cached)
    reading = show.for_reading()
    rows = show.execute(
        run, request, line=None if reading else lambda r: "\t".join(_cells(r)), bare=lambda r: r["name"]
    )
    if reading and rows:
        gone = show.table(COLUMNS, (_cells(r, short=True) for r in rows), SPARE)
        if gone:
            show.note(f"no room for {', '.join(gone)}: ganctl zoo info NAME tells all of one")


@app.command()
def info(name: Name) -> None:
    """Show one entry: its card, source, revision, sha256 and scores."""
    from ganctl.workflows.zoo import NameRequest
    from ganctl.workflows.zoo import info as run

    found = show.execute(run, NameRequest(name=name), line=_facts)
    if found and found["cached"] and show.for_reading() and show.truecolor():
        from ganctl.workflows.thumbnail import thumbnail

        pixels = thumbnail(name)
        if pixels is not None:
            show.picture(pixels)


@app.command()
def pull(
    names: Names = None,
    all: Annotated[bool, typer.Option("--all", help="The whole zoo.")] = False,
    task: Annotated[Task | None, typer.Option(metavar="TASK", help="Everything of a task, such as sample.")] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="The networks that fid needs.")] = False,
) -> None:
    """Download models, each checked against its sha256; org/repo[@revision] of the Hub works too."""
    from ganctl.workflows.zoo import PullRequest
    from ganctl.workflows.zoo import pull as run

    request = PullRequest(names=tuple(names or ()), all=all, task=task or "", metrics=metrics)
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
def check(
    names: Names = None,
    download: Annotated[bool, typer.Option("--download", help="Read large files too, for their sha256.")] = False,
) -> None:
    """Ask every address of the zoo: does it answer, with this size, with this sha256? For maintainers."""
    from ganctl.workflows.zoo_check import CheckRequest
    from ganctl.workflows.zoo_check import check_zoo as run

    request = CheckRequest(names=tuple(names or ()), download=download)
    # Line by line, as answers come: a table at the end would lose those before a Ctrl-C.
    show.execute(run, request, line=_checks, bare=lambda r: r["name"] if r["status"] == "broken" else None)


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


def _cells(r: Mapping[str, Any], *, short: bool = False) -> tuple[str, ...]:
    size = _size(r["bytes"]) if r["bytes"] else "-"
    where = "-" if not r["cached"] else "yes" if short else "built-in" if r["builtin"] else "cached"
    licence = str(r["license"])
    if r["noncommercial"] and not (short and "NC" in licence):
        licence += " (NC)" if short else " (non-commercial)"
    numbers = (str(r[key] or "-") for key in ("resolution", "classes"))
    return (r["name"], r["task"], *numbers, licence, size, where, _score(r, short=short))


def _score(r: Mapping[str, Any], *, short: bool) -> str:
    """The first published score, and ours beside it: `fid50k_full 2.84 (ours 2.9)`; short, the number comes first."""
    theirs, ours = r["metrics"], r["measured"]
    name = next(iter({**theirs, **ours}), "")
    if not name:
        return "-"
    digits = ".4g" if short else "g"
    told = f"ours {ours[name]:{digits}}" if name in ours else ""
    if name not in theirs:
        return f"{ours[name]:{digits}} {name} (ours)" if short else f"{name} {told}"
    number = f"{theirs[name]:{digits}}"
    return " ".join([*((number, name) if short else (name, number)), *([f"({told})"] if told else [])])


def _checks(r: Mapping[str, Any]) -> str:
    if r["status"] == "broken":
        cells = [r["name"], r["status"], r["road"], r["error"]]
    else:
        size, hops = _size(r["bytes"]) if r["bytes"] else "-", r["redirects"]
        host = f"{r['host']} ({hops} redirect{'s' * (hops > 1)})" if hops else r["host"]
        cells = [r["name"], r["status"], r["road"], size, r["hash"] or "not read", host]
    if not show.for_reading():
        return "\t".join(cells)
    widths = (32, 6, 8, 9, 20)[: len(cells) - 1]
    return "  ".join([*map(str.ljust, cells, widths), cells[-1]])


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _facts(r: Mapping[str, Any]) -> str:
    rows = [(key, _fact(value)) for key, value in r.items()]
    return "\n".join(show.facts(rows) if show.for_reading() else map("\t".join, rows))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
