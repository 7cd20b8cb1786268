"""How work below the command line speaks: it calls these, and never prints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def _ignore(*_: object) -> None: ...


@dataclass(frozen=True)
class Reporter:
    """What a workflow tells its caller while it runs. The defaults are silent, so the Python API needs none."""

    result: Callable[[Mapping[str, Any]], None] = _ignore
    """One finished result, at once, in order: the JSON object of `--json`."""
    progress: Callable[[str, int, int], None] = _ignore
    """(stage, done, total); total 0 means unknown."""
    warn: Callable[[str, str, str], None] = _ignore
    """(what, why, hint): something the user should know that stops nothing."""
    note: Callable[[str], None] = _ignore
    """One plain line beside the results, such as the protocol a score was made by."""


SILENT = Reporter()
