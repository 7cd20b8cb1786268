"""Progress on stderr: bars and a live table on a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from ganctl.cli.options import Common, common
from ganctl.errors import printable

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 60.0
PLAIN_PERCENT = 10


def use_color(stream: TextIO) -> bool:
    """--color first, then NO_COLOR, then whether the stream is a terminal that can."""
    choice = common().color
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, code: str, stream: TextIO) -> str:
    return f"\x1b[1;{code}m{text}\x1b[0m" if use_color(stream) else text


def console(settings: Common) -> Any:
    """rich on stderr, in the colour the user asked for."""
    from rich.console import Console

    return Console(stderr=True, no_color=not use_color(sys.stderr), highlight=False, emoji=False, markup=False)


class Display:
    """The progress of one stage after another: `progress(stage, done, total)`, total 0 meaning unknown."""

    def __init__(self, settings: Common) -> None:
        self.settings = settings
        self.shown = settings.progress and not settings.quiet
        self.live = self.shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.stage = ""
        self.bar: Any = None
        self.task: Any = None
        self.last = 0.0
        self.percent = 0

    def progress(self, stage: str, done: int, total: int) -> None:
        if not self.shown:
            return
        if self.live:
            self._draw(stage, done, total)
        else:
            self._line(stage, done, total)

    def _draw(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage or self.bar is None:
            self.close()
            self.stage, self.bar = stage, _bar(self.settings)
            self.task = self.bar.add_task(printable(stage), total=total or None)
            self.bar.start()
        elif now - self.last < REDRAW_SECONDS and done != total:
            return
        self.last = now
        self.bar.update(self.task, completed=done, total=total or None, refresh=True)

    def _line(self, stage: str, done: int, total: int) -> None:
        """One line per 10 %, or per minute when that is sooner."""
        now = time.monotonic()
        percent = 100 * done // total if total else 0
        if stage != self.stage:
            self.stage, self.percent, self.last = stage, 0, now
        due = percent >= self.percent + PLAIN_PERCENT or now - self.last >= PLAIN_SECONDS
        if due and done:
            self.percent, self.last = percent - percent % PLAIN_PERCENT, now
            amount = f"{done}/{total} ({percent} %)" if total else str(done)
            _write(f"{printable(stage)}: {amount}")

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Around other output, so that it never lands inside a bar."""
        if self.bar is not None:
            # The bar is one line and the cursor stands at its end: wipe it, and let the next redraw start anew.
            _write("\r\x1b[2K", end="")
        yield
        if self.bar is not None:
            self.bar.refresh()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _bar(settings: Common) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # stdout is for results: rich must not catch it. No thread redraws, so a fork never meets a held lock.
    return Progress(
        *columns,
        console=console(settings),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class TickLines(Display):
    """Training without a terminal: one line per tick."""

    def tick(self, tick: Mapping[str, Any]) -> None:
        _write("  ".join(f"{printable(k)} {_cell(v)}" for k, v in tick.items()))


class TickTable(Display):
    """Training on a terminal: the last ticks as rows of a live table, and the current stage under it."""

    ROWS = 12

    def __init__(self, settings: Common) -> None:
        super().__init__(settings)
        from rich.live import Live

        self.ticks: list[dict[str, Any]] = []
        self.note = ""
        self.table = Live(console=console(settings), auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self.table.start()

    def tick(self, tick: Mapping[str, Any]) -> None:
        self.ticks = [*self.ticks[1 - self.ROWS :], dict(tick)]
        self.note = ""  # the stage before training, or between two ticks, is over
        self.table.update(self._render(), refresh=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self.stage and now - self.last < REDRAW_SECONDS and done != total:
            return
        self.stage, self.last = stage, now
        self.note = f"{printable(stage)} {done}/{total}" if total else f"{printable(stage)} {done}"
        self.table.update(self._render(), refresh=True)

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        names = list(dict.fromkeys(name for tick in self.ticks for name in tick))
        table = Table(box=None, caption=Text(self.note), caption_justify="left", pad_edge=False)
        for name in names:
            table.add_column(Text(printable(name)), justify="right")
        for tick in self.ticks:
            table.add_row(*(Text(_cell(tick.get(name, ""))) for name in names))
        return table

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        # The table spans lines: leave it where it is, write below it, and start a new one underneath.
        self.table.stop()
        yield
        self.table.start()
        self.table.update(self._render(), refresh=True)

    def close(self) -> None:
        self.table.stop()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{printable(k)}={_cell(v)}" for k, v in value.items())
    return printable(value)


def _write(text: str, end: str = "\n") -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + end)
        sys.stderr.flush()
