"""What the user sees: results on stdout, everything else on stderr."""

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from ganctl.cli.display import Display, TickLines, TickTable, colored, use_color
from ganctl.cli.options import Common, common
from ganctl.errors import GanctlError, UsageError, printable, quoted

__all__ = [
    "Common",
    "aligned",
    "auto_number",
    "binary_stdout",
    "common",
    "error",
    "execute",
    "facts",
    "for_reading",
    "json_error",
    "note",
    "picture",
    "table",
    "training_table",
    "truecolor",
    "warning",
]

MAX_FAILURES_SHOWN = 5
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{6,}|(?<=://)[^/\s@']+:[^/\s@']+(?=@)|(?<=\?)[^\s'\"]*(?:[Ss]ignature|[Tt]oken)=[^\s'\"]+"
)

Line = Callable[[Mapping[str, Any]], str | None]

_display: Display | None = None


def main_process() -> bool:
    """Whether this is the process that talks: of several started by torchrun, only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def execute(
    run: Callable[..., Any],
    request: Any,
    *,
    line: Line | None = lambda r: r.get("path"),
    bare: Line | None = None,
    check: Callable[[Any], Any] | None = None,
) -> Any:
    """Runs a workflow and shows it; returns its report, or None for --dry-run.

    `line` gives a result's text for stdout (None: nothing), `bare` the same for -q. `check` is the workflow's cheap
    pass over the request: --dry-run runs it, so that a plan which cannot work is refused too, and prints the request it
    gives back with the defaults filled in, if it gives one.
    """
    settings = common()
    if settings.dry_run:
        found = check(request) if check else None
        _print_plan(found if type(found) is type(request) else request, settings)
        return None
    global _display
    outer, _display = _display, _display or Display(settings)
    screen = Screen(settings, line, (bare or line) if settings.quiet else line, _display)
    try:
        return run(request, screen.reporter())
    finally:
        screen.close()
        if outer is None:
            _display.close()
        _display = outer


def for_reading() -> bool:
    """Whether a person reads stdout: a terminal, without --json or -q. Others get tab-separated lines, no header."""
    return sys.stdout.isatty() and not common().json and not common().quiet


def aligned(rows: Iterable[Iterable[object]]) -> list[str]:
    """Rows as lines whose columns line up."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def table(header: Iterable[str], rows: Iterable[Iterable[object]], spare: Iterable[str] = ()) -> list[str]:
    """Rows under a header on stdout, for a person. Gives the columns that were left out.

    In a narrow terminal the columns `spare` go, in that order, until the rest fits; then the ends of lines are cut.
    """
    columns = {name: [name.upper(), *map(printable, cells)] for name, *cells in zip(header, *rows, strict=True)}
    room, gone = shutil.get_terminal_size().columns, list[str]()
    for name in spare:
        if sum(max(map(len, cells)) + 2 for cells in columns.values()) - 2 <= room:
            break
        del columns[name]
        gone.append(name)
    lines = aligned(zip(*columns.values(), strict=True))
    head, *lines = [line if len(line) <= room else f"{line[: room - 1]}…" for line in lines]
    _print("\n".join([colored(head, "39", sys.stdout), *lines]))
    return gone


def facts(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names and values as lines for a person: a long value goes on under its beginning, and no word of it is broken."""
    rows = [(name, printable(value)) for name, value in rows]
    indent = max(len(name) for name, _ in rows) + 2
    room = max(shutil.get_terminal_size().columns - indent, 24)
    fill = textwrap.TextWrapper(room, break_long_words=False, break_on_hyphens=False)
    return [f"{name:<{indent}}" + f"\n{'':<{indent}}".join(fill.wrap(value)) for name, value in rows]


def truecolor() -> bool:
    """Whether stdout is a terminal that shows any colour, and may."""
    return use_color(sys.stdout) and os.environ.get("COLORTERM") in ("truecolor", "24bit")


def picture(pixels: Any) -> None:
    """uint8 [h, w, 3] on a terminal: two rows a line, the upper one as the colour of ▀, the lower one behind it."""
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;2;{r};{g};{b};48;2;{R};{G};{B}m▀" for (r, g, b), (R, G, B) in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    _print("\n".join(lines))


def binary_stdout() -> Any:
    """The stream of `-o -`. Raises UsageError when it is a terminal or --json wants it too."""
    if common().json:
        raise UsageError("cannot use -o - with --json", "both want stdout", "write to a file or folder instead")
    if sys.stdout.isatty():
        raise UsageError("cannot write image bytes to a terminal", "-o - is for pipes", "add: > image.png")
    return sys.stdout.buffer


@dataclass
class Screen:
    """One workflow's results, warnings and failures on the two streams."""

    settings: Common
    line: Line | None
    quiet_line: Line | None
    display: Display
    failures: int = 0
    warned: set[tuple[str, str, str]] = field(default_factory=set)

    def reporter(self) -> Any:
        from ganctl.io.progress import Reporter

        if not main_process():
            return Reporter()
        return Reporter(result=self.result, progress=self.display.progress, warn=self.warn, note=self.note)

    def result(self, result: Mapping[str, Any]) -> None:
        if result.get("status") == "failed":
            self.failed(result)
        text = None
        if self.settings.json:
            text = json.dumps(_plain(result), ensure_ascii=False, allow_nan=False)
        elif result.get("status") != "failed" and self.quiet_line:
            text = self.quiet_line(result)
        if text is not None:
            if sys.stdout.isatty() and not self.settings.json:
                text = "\n".join("\t".join(map(printable, row.split("\t"))) for row in text.split("\n"))
            with self.display.aside():
                _print(text)

    def failed(self, result: Mapping[str, Any]) -> None:
        self.failures += 1
        if self.failures > MAX_FAILURES_SHOWN:
            return
        cause = result.get("error") or "failed"
        cause = cause.get("message", "failed") if isinstance(cause, Mapping) else cause
        name = result.get("input") or result.get("path") or ""
        with self.display.aside():
            _say(sys.stderr, f"{printable(name)}: {clean(cause)}")

    def warn(self, what: str, why: str = "", hint: str = "") -> None:
        if self.settings.quiet or (what, why, hint) in self.warned:
            return
        self.warned.add((what, why, hint))
        with self.display.aside():
            warning(what, why, hint)

    def note(self, text: str) -> None:
        if not self.settings.quiet:
            with self.display.aside():
                _say(sys.stderr, clean(text))

    def close(self) -> None:
        if self.failures > MAX_FAILURES_SHOWN:
            with self.display.aside():
                _say(sys.stderr, f"and {self.failures - MAX_FAILURES_SHOWN} more failed")


@contextlib.contextmanager
def training_table() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Gives `on_tick(tick)`: a live table on a terminal, one line per tick elsewhere, nothing with -q.

    A tick is a flat mapping such as {"kimg": 12.0, "s/kimg": 3.1, "eta": "2h 10m", "D": 0.7, "fid5k": 31.2}.
    """
    global _display
    settings = common()
    if settings.quiet or not main_process():
        yield lambda tick: None
        return
    live = settings.progress and sys.stderr.isatty()
    table = TickTable(settings) if live else TickLines(settings)
    outer, _display = _display, table
    try:
        yield table.tick
    finally:
        table.close()
        _display = outer


def error(e: GanctlError) -> None:
    """error/why/hint on stderr."""
    _three("error", "31", e.what, e.why, e.hint)


def warning(what: str, why: str = "", hint: str = "") -> None:
    """warning/why/hint on stderr."""
    _three("warning", "33", what, why, hint)


def note(text: str) -> None:
    """A line on stderr that no command depends on."""
    _say(sys.stderr, clean(text))


def json_error(e: GanctlError) -> str:
    """The last line of stdout after a failure with --json."""
    body = {"kind": e.kind, "message": clean(e.message), "hint": clean(e.hint)}
    return json.dumps({"error": body}, ensure_ascii=False)


def clean(text: object) -> str:
    """One line without control characters or secrets."""
    return _SECRET.sub("***", "; ".join(map(printable, str(text).split("\n"))))


def _three(label: str, color: str, what: str, why: str, hint: str) -> None:
    lines = [f"{colored(label + ':', color, sys.stderr)} {clean(what)}"]
    # The labels are right-aligned under the first one's colon.
    for name, text in (("why", why), ("hint", hint)):
        if text:
            first, *others = map(clean, text.split("\n"))
            lines += [f"{name:>{len(label)}}: {first}", *(" " * (len(label) + 2) + line for line in others)]
    _say(sys.stderr, "\n".join(lines))


def _say(stream: TextIO, text: str) -> None:
    # A closed stderr must not hide the exit code.
    with contextlib.suppress(OSError, ValueError):
        stream.write(text + "\n")
        stream.flush()


def _print(text: str) -> None:
    """One result on stdout, at once. Raises GanctlError when it cannot be written; a closed pipe stays what it is."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise GanctlError("cannot write the results to stdout", e.strerror or str(e), "check where stdout goes") from e


def _print_plan(request: Any, settings: Common) -> None:
    from ganctl.config import to_plain, write_yaml

    plan = to_plain(request)
    _print(json.dumps({"plan": _plain(plan)}, ensure_ascii=False) if settings.json else write_yaml(plan).rstrip("\n"))


def _plain(value: Any) -> Any:
    """JSON has no NaN, tuples or paths. A number that is not finite is a bug below, so it fails loudly in dumps."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        # A path with bytes outside UTF-8 holds lone surrogates, which no JSON reader takes.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value


def auto_number(option: str, text: str) -> int | None:
    """The value of an option that is a whole number or `auto` (None). Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text[:9]) >= 1 and len(text) <= 9):
        raise UsageError(
            f"cannot use {option} {quoted(text)}",
            "it is neither auto nor a whole number of 1 or more",
            f"for example {option} 16",
        )
    return int(text)
