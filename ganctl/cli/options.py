"""The options every command takes, before or after the verb: one list, one order of precedence, one `Common`."""

import copy
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from ganctl.errors import UsageError, did_you_mean, quoted

PANEL = "Common options (before or after the command)"
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Common:
    """The settled common options of this call."""

    device: str = "auto"
    dtype: str = "auto"
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    progress: bool = True
    color: str = "auto"
    offline: bool = False
    zoo: str = ""
    config: str | None = None
    overwrite: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    traceback: bool = False


# One layer per source, weakest first. A group's callback runs before its command is parsed, so a flag before the verb
# is known here by the time the verb's own flags come in and win.
_config_file: dict[str, Any] = {}
_environment: dict[str, Any] = {}
_flags: dict[str, Any] = {}


def common() -> Common:
    """The common options: flag > environment > --config > default."""
    return Common(**{**_config_file, **_environment, **_flags})


def _use_config(ctx: typer.Context, value: str | None) -> str | None:
    """Runs before any other option of the command: the file's values become its defaults."""
    path = value or _flags.get("config")
    if path is None or ctx.resilient_parsing or hasattr(ctx.command, "commands"):
        return value
    ctx.default_map = _default_map(ctx.command, path, f"see: {ctx.command_path} --help")
    return value


def _default_map(command: Any, path: str, see: str) -> dict[str, Any]:
    from ganctl.config import read_yaml

    where = f"--config {quoted(path)}"
    values = read_yaml(Path(path), where=where).value
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise UsageError(f"cannot use {where}", "it is not a list of `option: value` lines", see)
    names = {
        opt.lstrip("-").replace("-", "_"): p.name
        for p in command.params
        for opt in (*p.opts, p.name)
        if len(opt) > 2 or not opt.startswith("-")
    }
    defaults: dict[str, Any] = {}
    faults = []
    for key, value in values.items():
        name = names.get(str(key).replace("-", "_"))
        if name is None or name == "common_config" or isinstance(value, Mapping):
            near = did_you_mean(str(key), [n.replace("_", "-") for n in names])
            faults.append(f"{quoted(key)} is no option of this command" + (f" ({near})" if near else ""))
        elif name.startswith("common_"):
            name = name.removeprefix("common_")
            _config_file[name] = _checked_common(name, value, where, see)
        elif value is not None:
            defaults[name] = _option_value(value, next(p for p in command.params if p.name == name))
    if faults:
        raise UsageError(f"cannot use {where}", "; ".join(faults[:5]), see)
    return defaults


def _option_value(value: Any, param: Any) -> Any:
    """A YAML value as the command line would have written it, so one parser checks both."""
    if isinstance(value, list):
        if getattr(param, "multiple", False) or param.nargs == -1:
            return [str(v) for v in value]
        return ",".join(str(v) for v in value)
    return value if isinstance(value, bool) else str(value)


def _checked_common(name: str, value: Any, where: str, see: str) -> Any:
    wanted = type(getattr(Common(), name))
    if name == "progress" and isinstance(value, bool):
        return value
    if not isinstance(value, wanted):
        raise UsageError(f"cannot use {where}", f"{name} must be {'true or false' if wanted is bool else 'text'}", see)
    choices = {"dtype": ("auto", "fp32", "fp16", "bf16"), "color": ("auto", "always", "never")}.get(name)
    if choices and value not in choices:
        raise UsageError(f"cannot use {where}", f"{name} is {quoted(value)}, not one of {', '.join(choices)}", see)
    return value


def _show_help(ctx: typer.Context, value: bool | None) -> None:
    if value and not ctx.resilient_parsing:
        # With rich, the text is printed while it is made.
        if text := ctx.get_help():
            typer.echo(text)
        raise typer.Exit


def _common_options(
    common_device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda[:N]|mps",
            help="Where to compute; also GANCTL_DEVICE. Default: auto.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    common_dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"] | None,
        typer.Option("--dtype", help="Number format; auto follows the model card.", rich_help_panel=PANEL),
    ] = None,
    common_json: Annotated[
        bool | None, typer.Option("--json", help="One JSON object per result.", rich_help_panel=PANEL)
    ] = None,
    common_quiet: Annotated[
        bool | None, typer.Option("--quiet", "-q", help="Bare values, no notes; errors stay.", rich_help_panel=PANEL)
    ] = None,
    common_verbose: Annotated[
        bool | None, typer.Option("--verbose", "-v", help="Also show libraries' own notes.", rich_help_panel=PANEL)
    ] = None,
    common_progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Progress on stderr.", rich_help_panel=PANEL)
    ] = None,
    common_color: Annotated[
        Literal["auto", "always", "never"] | None,
        typer.Option("--color", help="Colour on a terminal; NO_COLOR is honoured.", rich_help_panel=PANEL),
    ] = None,
    common_offline: Annotated[
        bool | None, typer.Option("--offline", help="Never touch the network.", rich_help_panel=PANEL)
    ] = None,
    common_zoo: Annotated[
        str | None,
        typer.Option("--zoo", metavar="FILE|URL", help="Another zoo.yaml; also GANCTL_ZOO.", rich_help_panel=PANEL),
    ] = None,
    common_config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file of option values for this command; flags win.",
            rich_help_panel=PANEL,
            is_eager=True,
            callback=_use_config,
        ),
    ] = None,
    common_overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace what another request wrote.", rich_help_panel=PANEL)
    ] = None,
    common_fail_fast: Annotated[
        bool | None, typer.Option("--fail-fast", help="Stop at the first failed input.", rich_help_panel=PANEL)
    ] = None,
    common_dry_run: Annotated[
        bool | None, typer.Option("--dry-run", help="Print the resolved plan, touch nothing.", rich_help_panel=PANEL)
    ] = None,
    common_traceback: Annotated[
        bool | None, typer.Option("--traceback", help="Show the stack when something fails.", rich_help_panel=PANEL)
    ] = None,
    common_help: Annotated[
        bool | None,
        typer.Option(
            "--help",
            "-h",
            help="Show this page and exit.",
            rich_help_panel=PANEL,
            is_eager=True,
            expose_value=False,
            callback=_show_help,
        ),
    ] = None,
) -> None: ...


_PARAMETERS = [
    p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(_common_options).parameters.values()
]


def with_common(command: Callable[..., Any], *, hidden: bool = False) -> Callable[..., Any]:
    """The command with the common options added to its signature; they are settled before its body runs.

    `hidden` is for groups: it leaves them out of the help, where commands should come first, and leaves settling them
    to the command, whose own flags are not known yet.
    """
    own = inspect.signature(command)
    added = [_hidden(p) for p in _PARAMETERS] if hidden else _PARAMETERS

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        for p in _PARAMETERS:
            value = given.pop(p.name, None)
            if value is not None:
                _flags[p.name.removeprefix("common_")] = value
        if not hidden:
            _settle()
        return command(**given)

    call.__signature__ = own.replace(parameters=[*_keyword_only(own), *added])  # type: ignore[attr-defined]
    return call


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.hidden, option.rich_help_panel = parameter.name != "common_help", None
    return parameter.replace(annotation=Annotated[kind, option])


def _keyword_only(signature: inspect.Signature) -> list[inspect.Parameter]:
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]


def _settle() -> None:
    """Reads the environment, checks what needs checking, and passes on what libraries read from the environment."""
    for name in ("device", "zoo"):
        if value := os.environ.get(f"GANCTL_{name.upper()}"):
            _environment[name] = value
    settled = common()
    if not DEVICES.fullmatch(settled.device):
        source = "--device" if "device" in _flags else "GANCTL_DEVICE" if "device" in _environment else "device"
        near = did_you_mean(settled.device, ["auto", "cpu", "cuda", "mps"])
        raise UsageError(
            f"cannot use {source} {quoted(settled.device)}", "it is none of auto, cpu, cuda, cuda:N, mps", near
        )
    if settled.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if settled.zoo:
        os.environ["GANCTL_ZOO"] = _zoo_file(settled) if "://" in settled.zoo else settled.zoo


def _zoo_file(settled: Common) -> str:
    """Where the zoo at an address lies on this machine, fetched where that is needed."""
    from ganctl.cli.show import warning
    from ganctl.io.hub import fetch_zoo
    from ganctl.io.progress import SILENT, Reporter

    return str(fetch_zoo(settled.zoo, reporter=SILENT if settled.quiet else Reporter(warn=warning)))
