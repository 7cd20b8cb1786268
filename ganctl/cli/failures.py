"""Anything a command can raise, as one of our errors: the last door before the user."""

import difflib
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from ganctl.cli.parameters import label
from ganctl.errors import DeviceError, GanctlError, InterruptedRun, UsageError, quoted

# Libraries advise turning their protection off; that advice is never passed on.
_BAD_ADVICE = ("weights_only", "allow_pickle", "add_safe_globals", "trust_remote_code")


def as_error(e: BaseException) -> GanctlError:
    """The sentence, cause and hint for any exception that reached the top."""
    if isinstance(e, GanctlError):
        if isinstance(e, UsageError) and not e.hint:
            e.hint = f"see: {_command_path(sys.argv[1:])} --help"
        return e
    kinds = {cls.__name__ for cls in type(e).__mro__}
    if isinstance(e, KeyboardInterrupt):
        hint = "run the same command again: what is finished is kept"
        return InterruptedRun("interrupted", "Ctrl-C was pressed", hint)
    # Typer brings its own copy of click, or uses the shared one: only the names are the same everywhere.
    if "ClickException" in kinds:
        return _usage(e, kinds)
    if isinstance(e, MemoryError) or "OutOfMemoryError" in kinds:
        return DeviceError("out of memory", _sentence(e), "use a smaller --batch-size, or another --device")
    if isinstance(e, OSError) and e.errno is not None:
        return _os_error(e)
    return GanctlError(
        "ganctl failed unexpectedly",
        f"{_sentence(e)} ({_place(e)})",
        "run it again with --traceback, and report what it shows",
    )


def _usage(e: Any, kinds: set[str]) -> UsageError:
    ctx: Any = getattr(e, "ctx", None)
    path = ctx.command_path if ctx else _command_path(sys.argv[1:])
    see = f"see: {path} --help"
    if "NoSuchOption" in kinds:
        known = (
            [o for p in ctx.command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")] if ctx else []
        )
        near = difflib.get_close_matches(e.option_name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? {see}" if near else see
        return UsageError(f"unknown option {quoted(e.option_name)}", f"'{path}' has no such option", hint)
    message = e.format_message().strip()
    if "BadOptionUsage" in kinds and "requires an argument" in message:
        return UsageError(f"cannot use {quoted(e.option_name)}", "it needs a value after it", see)
    if extra := re.fullmatch(r"Got unexpected extra argument\S* \((.*)\)\.?", message, re.DOTALL):
        return UsageError(f"unexpected argument {quoted(extra[1])}", f"'{path}' takes no more", see)
    param: Any = getattr(e, "param", None)
    if param is not None and {"MissingParameter", "BadParameter"} & kinds:
        name = label(param)
        if "MissingParameter" in kinds:
            return UsageError(f"missing {param.param_type_name} {name}", f"'{path}' needs it", see)
        return UsageError(f"cannot use {name}", _lower(e.message), see)
    if message == "Missing command.":
        return UsageError("missing command", f"'{path}' needs one of {', '.join(ctx.command.commands)}", see)
    return UsageError("cannot read the command line", _lower(message), see)


def _command_path(argv: list[str]) -> str:
    """`ganctl VERB` when the command line begins so."""
    from ganctl.cli.app import COMMANDS

    return " ".join(["ganctl", *(word for word in argv[:1] if any(word in names for names in COMMANDS.values()))])


def _os_error(e: OSError) -> GanctlError:
    from ganctl.io.files import write_error

    if e.filename is not None:
        if isinstance(e, FileNotFoundError):
            return UsageError(f"cannot read {quoted(e.filename)}", "there is no such file or folder", "check the path")
        return write_error(Path(str(e.filename)), e)
    return GanctlError("input or output failed", e.strerror or _sentence(e), "check free space and the output")


def _lower(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _sentence(e: BaseException) -> str:
    """The exception's type and first line, without advice to weaken anything."""
    lines = str(e).strip().splitlines()
    first = lines[0][:200] if lines else ""
    if not first or any(word in str(e) for word in _BAD_ADVICE):
        return type(e).__name__
    return f"{type(e).__name__}: {first}"


def _place(e: BaseException) -> str:
    """Where in ganctl it happened, relative to the package: no machine's folders."""
    package = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(e.__traceback__)):
        if Path(frame.filename).is_relative_to(package):
            return f"in {Path(frame.filename).relative_to(package.parent).as_posix()}, line {frame.lineno}"
    return "outside ganctl"
