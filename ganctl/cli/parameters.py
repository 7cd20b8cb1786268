"""What Typer's parameters lack: values read without pydantic, and help a reader can scan.

Typer hands every value to pydantic, whose import alone takes longer than a typo may. The few kinds of values that
ganctl's options have are read here instead, with sentences of our own.
"""

import math
from typing import Any, Literal, get_args, get_origin

from ganctl.errors import UsageError, did_you_mean, printable, quoted

MAX_DIGITS = 18
MAX_SHOWN = 80


class Plain:
    """Stands where Typer keeps a parameter's reader: `coerce(value, param, ctx)` gives the checked value."""

    def __init__(self, annotation: Any, low: float | None, high: float | None) -> None:
        self.annotation, self.low, self.high = annotation, low, high

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        try:
            if several:
                kind = get_args(self.annotation)[0]
                return [read(v, kind, self.low, self.high) for v in value]
            return read(value, self.annotation, self.low, self.high)
        except ValueError as e:
            shown = "" if several else f" {quoted(str(value)[:MAX_SHOWN])}"
            why, _, near = str(e).partition("\n")
            hint = f"{near} see: {ctx.command_path} --help".strip()
            raise UsageError(f"cannot use {label(param)}{shown}", why, hint) from e


def finish(command: Any) -> None:
    """Gives the parameters of a command and of its sub-commands our reader of values and our way of naming them."""
    for param in command.params:
        _finish_parameter(param)
    command.help = escaped(command.help)
    for child in getattr(command, "commands", {}).values():
        finish(child)


def _finish_parameter(param: Any) -> None:
    descriptor = getattr(param, "type_descriptor", None)
    # An older Typer has no such place, and reads values quickly by itself.
    if descriptor is not None and hasattr(param, "_runtime_param"):
        info = descriptor.parameter_info
        param._runtime_param = Plain(descriptor.annotation, info.min, info.max)
    if param.param_type_name == "argument":
        param.metavar = label(param)
    elif getattr(param, "is_flag", False):
        param.metavar = ""
    elif param.metavar is None and descriptor is not None and descriptor.annotation in (int, float):
        param.metavar = f"<{descriptor.annotation.__name__}>"
    param.help = escaped(getattr(param, "help", None))


def escaped(text: str | None) -> str | None:
    """Help text whose square brackets rich leaves alone: org/repo[@rev] is no markup."""
    return text.replace("[", "\\[") if text else text


def unescaped(text: str | None) -> str:
    return (text or "").replace("\\[", "[")


def label(param: Any) -> str:
    """A parameter as the help writes it: --num, or MODEL."""
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return (param.metavar or param.name).strip("[].…").upper()


def read(value: Any, kind: Any, low: float | None = None, high: float | None = None) -> Any:
    """One value of a kind: str, bool, int, float or a Literal of texts. Raises ValueError saying what it must be.

    A second line of the message is a suggestion.
    """
    if get_origin(kind) is Literal:
        return _choice(value, [str(c) for c in get_args(kind)])
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError("it must be true or false")
        return value
    if isinstance(value, bool):
        raise ValueError(f"it must be {_NAMES[kind]}, not true or false")
    if kind is str:
        return str(value)
    number = _whole(value) if kind is int else _finite(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"it must be {_range(low, high)}")
    return number


_NAMES = {str: "text", int: "a whole number", float: "a number"}


def _choice(value: Any, choices: list[str]) -> str:
    if value not in choices:
        near = did_you_mean(str(value), choices)
        raise ValueError(f"it is none of {', '.join(map(printable, choices))}\n{near}")
    return value


def _whole(value: Any) -> int:
    text = str(value).strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
        raise ValueError("it is not a whole number")
    return int(text)


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except ValueError as e:
        raise ValueError("it is not a number") from e
    if not math.isfinite(number):
        raise ValueError("it is not a finite number")
    return number


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"between {low} and {high}"
