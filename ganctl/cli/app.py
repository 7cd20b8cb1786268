"""The command line: every command in one list, and the group that names the near one after a typo."""

import importlib
import importlib.util
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ganctl import __version__
from ganctl.cli.options import with_common
from ganctl.errors import UsageError, did_you_mean, quoted

COMMANDS = {
    "Use a model": ("sample", "interpolate", "invert", "translate"),
    "Measure and train": ("fid", "train"),
    "Models": ("zoo", "convert"),
    "Set up": ("doctor", "completion"),
}
EPILOG = (
    "Common options (--device, --json, -q, --offline, --dry-run and more) go before or after the command; "
    "each command's --help lists them."
)


class Group(TyperGroup):
    """A group whose unknown commands are refused like every other usage error."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            near = did_you_mean(name, self.commands)
            raise UsageError(
                f"unknown command {quoted(name)}",
                f"{ctx.command_path} knows {', '.join(self.commands)}",
                f"{near} see: {ctx.command_path} --help".strip(),
            )
        return super().resolve_command(ctx, args)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ganctl {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """One command line for generative adversarial networks: train, sample, interpolate, invert, translate, score.

    Results go to stdout, everything else to stderr. Start with: ganctl sample
    """


def _group() -> None: ...


def build() -> Any:
    """The click command behind `ganctl`."""
    app = typer.Typer(
        cls=Group,
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog=EPILOG)(with_common(root, hidden=True))
    for panel, names in COMMANDS.items():
        for name in names:
            if importlib.util.find_spec(f"ganctl.cli.{name}"):
                _add(app, panel, name, importlib.import_module(f"ganctl.cli.{name}"))
    return typer.main.get_command(app)


def _add(app: typer.Typer, panel: str, name: str, module: Any) -> None:
    """A command's module holds a function of its name; a noun's (zoo) holds a Typer `app`."""
    group = getattr(module, "app", None)
    if group is None:
        app.command(name, rich_help_panel=panel)(with_common(getattr(module, name)))
        return
    group.info.cls = Group
    for command in group.registered_commands:
        command.callback = with_common(command.callback)
    group.callback(help=group.info.help)(with_common(_group, hidden=True))
    app.add_typer(group, name=name, rich_help_panel=panel)
