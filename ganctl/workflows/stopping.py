"""How training ends before its time: Ctrl-C, a scheduler's signal, or a duration that is over."""

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ganctl.errors import GanctlError, InterruptedRun, StoppedError, UsageError, quoted

INTERRUPT = "Ctrl-C"


class StopNow(BaseException):
    """An end asked for while nothing is being trained yet: there is nothing to save, so nothing waits."""


@dataclass
class Stop:
    """Whether an end was asked for, and why."""

    reason: str = ""
    training: bool = False
    """From here on a step is finished and saved before the end."""

    def error(self, what: str, why: str, hint: str) -> GanctlError:
        """The failure with the exit code of the reason: 130 for Ctrl-C, 75 for all others."""
        kind = InterruptedRun if self.reason == INTERRUPT else StoppedError
        return kind(what, f"{self.reason}; {why}", hint)


@contextlib.contextmanager
def asked_to_stop(max_seconds: float | None) -> Iterator[Stop]:
    """Notes SIGINT, SIGTERM and SIGUSR1, and the end of `max_seconds`. A second Ctrl-C ends at once.

    Outside the main thread, where Python takes no signals, nothing is noted.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and stop.reason:
            raise KeyboardInterrupt
        stop.reason = stop.reason or (INTERRUPT if number == signal.SIGINT else signal.Signals(number).name)
        if not stop.training:
            raise StopNow

    def late(number: int, frame: object) -> None:
        # Never before the first step: requeued again and again, a slow start would make no progress.
        stop.reason = stop.reason or "--max-time is over"

    wanted: dict[Any, Callable[[int, object], None]] = {signal.SIGINT: ask, signal.SIGTERM: ask}
    if hasattr(signal, "SIGUSR1"):
        wanted[signal.SIGUSR1] = ask
    if max_seconds is not None:
        wanted[signal.SIGALRM] = late
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    if max_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, max(max_seconds, 1e-3))
    try:
        yield stop
    finally:
        if max_seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_duration(text: str) -> float:
    """Seconds of `23h50m`, `90m`, `45s` or a bare number of seconds. Raises UsageError."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        parts = [(text, "s")]
    seconds = sum(float(amount) * units[unit] for amount, unit in parts)
    whole = "".join(amount + unit for amount, unit in parts) in (text, f"{text}s")
    # A timer takes no more than that many seconds everywhere.
    if not whole or not 0 < seconds < 2**31:
        raise UsageError(f"cannot use the duration {quoted(text)}", "it is not a time such as 23h50m, 90m or 45s")
    return seconds


def duration_text(seconds: float) -> str:
    """`2h 05m`, `3m 20s`."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h {m:02d}m" if hours else f"{m}m {s:02d}s"
