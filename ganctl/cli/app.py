"""The command line: every command in one list, and the group that names the near one after a typo."""

import importlib
import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ganctl import __version__
from ganctl.cli.options import with_common
from ganctl.cli.parameters import finish
from ganctl.errors import UsageError, did_you_mean, quoted

COMMANDS = {
    "Use a model": ("sample", "interpolate", "invert", "translate"),
    "Measure and train": ("fid", "train", "dataset"),
    "Models": ("zoo", "convert", "export"),
    "Set up": ("doctor", "completion"),
}
JOBS = ("train", "fid")
"""Commands whose processes, where there are several, work together."""
EPILOG = (
    "Common options (--device, --json, -q, --offline, --dry-run and more) go before or after the command; "
    "each command's --help lists them."
)


class Group(TyperGroup):
    """A group whose unknown commands are refused like every other usage error."""

    default = ""
    """The command that is meant where the first word is none; with one, no command is unknown."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if self.default and args:
            word = _first_word(args, [*self.params, *self.commands[self.default].params])
            asked = word is None and {"-h", "--help"} & set(args)
            args = args if word in self.commands or asked else [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        name = args[0]
        if name in JOBS and "SLURM_PROCID" in os.environ:
            from ganctl.cli import launch

            launch.adopt_slurm()
        if name not in self.commands and not name.startswith("-"):
            near = did_you_mean(name, self.commands)
            raise UsageError(
                f"unknown command {quoted(name)}",
                f"{ctx.command_path} knows {', '.join(self.commands)}",
                f"{near} see: {ctx.command_path} --help".strip(),
            )
        return super().resolve_command(ctx, args)


def _first_word(args: list[str], params: list[Any]) -> str | None:
    """The first argument that is neither an option nor an option's value; None if there is none."""
    flags = {o: getattr(p, "is_flag", False) for p in params for o in (*p.opts, *p.secondary_opts)}
    values = {o for o, flag in flags.items() if o.startswith("-") and not flag}
    is_value = False
    for arg in args:
        if not is_value and not arg.startswith("-"):
            return arg
        is_value = not is_value and arg in values
    return None


class Command(TyperCommand):
    """A command whose options for .npz files take several in a row, as xargs appends them: --latents a.npz b.npz."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        many = {o for p in self.params if getattr(p, "multiple", False) for o in p.opts if p.metavar == "F.npz…"}
        return super().parse_args(ctx, _spread(args, many))


def _spread(args: list[str], many: set[str]) -> list[str]:
    """The option repeated before each .npz file that follows its first value; `--` ends it as it ends all options."""
    spread: list[str] = []
    current, is_value = "", False
    for i, arg in enumerate(args):
        if arg == "--":
            return [*spread, *args[i:]]
        if not is_value and (arg in many or arg.partition("=")[0] in many):
            current, is_value = arg.partition("=")[0], "=" not in arg
        elif is_value:
            is_value = False
        elif arg.startswith("-") and arg != "-":
            current = ""
        elif current and arg.endswith(".npz"):
            spread.append(current)
        else:
            current = ""
        spread.append(arg)
    return spread


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


def build(first: str = "") -> Any:
    """The click command behind `ganctl`.

    When the first word is a command's name, only that command is imported and built: the others cannot be asked for.
    """
    app = typer.Typer(
        cls=Group,
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback(epilog=EPILOG, add_help_option=False)(with_common(root, hidden=True))
    known = [(panel, name) for panel, names in COMMANDS.items() for name in names]
    for panel, name in [(p, n) for p, n in known if n == first] or known:
        _add(app, panel, name, importlib.import_module(f"ganctl.cli.{name}"))
    command: Any = typer.main.get_command(app)
    # Typer puts groups last; the help has them where COMMANDS does.
    command.commands = {name: command.commands[name] for _, name in known if name in command.commands}
    finish(command)
    return command


def _add(app: typer.Typer, panel: str, name: str, module: Any) -> None:
    """A command's module holds a function of its name; a noun's (zoo) holds a Typer `app`."""
    group = getattr(module, "app", None)
    if group is None:
        app.command(name, cls=Command, rich_help_panel=panel, add_help_option=False)(with_common(getattr(module, name)))
        return
    group.info.cls = getattr(module, "GROUP", Group)
    for command in group.registered_commands:
        command.callback = with_common(command.callback)
        command.add_help_option = False
    group.callback(help=group.info.help, add_help_option=False)(with_common(_group, hidden=True))
    app.add_typer(group, name=name, rich_help_panel=panel)
