"""`ganctl doctor`."""

from collections.abc import Mapping
from typing import Any

from ganctl.cli import show


def doctor() -> None:
    """Say on one screen what works on this machine, and how to get what is missing.

    Exit code 0 when ganctl can be used; 1 when a part is broken, 5 when only the device is.
    """
    from ganctl.workflows.doctor import DoctorRequest, run

    show.execute(run, DoctorRequest(device=show.common().device), line=_line, bare=_bare)


def _line(r: Mapping[str, Any]) -> str:
    text = f"{r['status']:8} {r['check']:16} {r['value']}"
    return f"{text}\n{'':8} {'':16} hint: {r['hint']}" if r["hint"] else text


def _bare(r: Mapping[str, Any]) -> str | None:
    return None if r["status"] == "ok" else r["check"]
