"""Every failure a user can meet, drawn as a tree, with the exit code a script sees.

GanctlError           1   failed: bug, I/O, disk full
├── UsageError        2   bad option, unknown model, no such path, refused input, refused overwrite
├── PartialError      3   some inputs failed, the others were written
├── WeightsError      4   weights unavailable or not acceptable: offline, gated, hash differs, wrong network
├── DeviceError       5   device missing or out of memory
├── DivergedError     6   training diverged; the last good snapshot was kept
├── StoppedError     75   stopped on request after saving; the same command goes on
└── InterruptedRun  130   Ctrl-C
"""

import difflib
from collections.abc import Iterable


class GanctlError(Exception):
    """One failure in three parts: what failed, why, and what to do next.

    `what` names the file or option, quoted with `quoted()`. `why` is the cause in one line, with numbers where they
    help; several faults found in one pass are one line each. `hint` is the user's next step, as a command when
    possible. `message` is `what` and `why` as two sentences.
    """

    code = 1
    kind = "failed"
    echo: bool | None = None
    """Whether another process of the same job tells what happened; None: that is not known."""

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        self.what, self.why, self.hint = what, why, hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return f"{self.what}. {self.why}" if self.why else self.what


class UsageError(GanctlError):
    code = 2
    kind = "usage"


class PartialError(GanctlError):
    code = 3
    kind = "partial"


class WeightsError(GanctlError):
    code = 4
    kind = "weights"


class DeviceError(GanctlError):
    code = 5
    kind = "device"


class DivergedError(GanctlError):
    code = 6
    kind = "diverged"


class StoppedError(GanctlError):
    code = 75
    kind = "stopped"


class InterruptedRun(GanctlError):
    code = 130
    kind = "interrupted"


def printable(text: object) -> str:
    """The text with control characters escaped, so that a file name cannot move the cursor or colour the screen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def quoted(name: object) -> str:
    """A file, option or key inside a message: in single quotes, control characters escaped."""
    return f"'{printable(name)}'"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""
