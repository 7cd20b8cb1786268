"""Several processes for one command: `train --gpus N`, or those that torchrun or Slurm has started.

`--gpus N` runs the same command again under torchrun, one process per device, before torch is loaded here. The
processes leave their pid and, if they fail, their error in a folder of ours. So the error shown is the first one
and not torchrun's summary, the exit code is ours (75, 6, 2 …), and signals reach the processes that can act on them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ganctl.errors import GanctlError, InterruptedRun, StoppedError, UsageError

FOLDER = "GANCTL_LAUNCH_DIR"
GRACE_SECONDS = 10.0
"""After one process failed, how long the others may take to notice before they are stopped."""
FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
TORCHRUN = """
import logging
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
logging.disable()
try:
    run.main()
except (ChildFailedError, SignalException):
    raise SystemExit(1)
"""
"""`python -m torch.distributed.run` without its log and traceback, also where it is stopped: the processes themselves
have said it better."""


def launch(gpus: int, argv: list[str] | None = None) -> int | None:
    """Runs this command on `gpus` processes and returns its exit code; None when it should simply go on here.

    That is the case for one device, and inside torchrun (WORLD_SIZE is set): its environment wins. On the CPU the
    processes talk over gloo. Raises the first error that a process left.
    """
    if gpus < 1:
        raise UsageError(f"cannot use --gpus {gpus}", "it must be 1 or more")
    if os.environ.get("WORLD_SIZE"):
        _note_pid()
        return None
    if gpus == 1:
        return None
    with tempfile.TemporaryDirectory(prefix="ganctl-launch-", ignore_cleanup_errors=True) as folder:
        return _watch(_start(gpus, sys.argv[1:] if argv is None else argv, Path(folder)), Path(folder), gpus)


def adopt_slurm() -> None:
    """Where srun started this process as one of several tasks, Slurm's variables as torchrun's.

    What is set stays: torchrun inside Slurm is torchrun, and MASTER_ADDR and MASTER_PORT may be chosen. The script of
    sbatch is itself a task, number 0, that nobody joins: it is no step (srun(1), sbatch(1), output environment).
    """
    said = os.environ
    tasks = said.get("SLURM_STEP_NUM_TASKS") or said.get("SLURM_NTASKS", "1")
    script = said.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in said
    if "WORLD_SIZE" in said or "SLURM_PROCID" not in said or tasks == "1" or script:
        return
    nodes = said.get("SLURM_STEP_NODELIST") or said.get("SLURM_JOB_NODELIST", "localhost")
    job = said.get("SLURM_JOB_ID", "")
    port = 10000 + (int(job) % 20000 if job.isdigit() else 0)
    said |= {"WORLD_SIZE": tasks, "RANK": said["SLURM_PROCID"], "LOCAL_RANK": said.get("SLURM_LOCALID", "0")}
    said.setdefault("MASTER_ADDR", first_node(nodes))
    said.setdefault("MASTER_PORT", str(port))


def first_node(nodes: str) -> str:
    """node03 of Slurm's `node[03-07,9],login`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else nodes)


def silent(e: GanctlError) -> bool:
    """Whether another process of the job tells of this failure. Before they have met, the first of each machine does,
    of what is wrong with all of them."""
    if e.echo is not None:
        return e.echo
    return isinstance(e, UsageError | StoppedError | InterruptedRun) and os.environ.get("LOCAL_RANK", "0") != "0"


def report(e: GanctlError) -> bool:
    """In a process that `launch` started: leaves the error for it. Returns whether that is so."""
    folder = os.environ.get(FOLDER)
    if not folder or not Path(folder).is_dir():
        return False
    body = {"code": e.code, "kind": e.kind, "what": e.what, "why": e.why, "hint": e.hint, "time": time.time()}
    path = Path(folder) / f"error-{os.environ.get('RANK', '0')}.json"
    with contextlib.suppress(OSError):
        path.with_suffix(".tmp").write_text(json.dumps(body), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)
    return True


def _start(gpus: int, argv: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    threads = max(1, (os.cpu_count() or 1) // gpus)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, FOLDER: str(folder)}
    torchrun = [sys.executable, "-c", TORCHRUN, "--standalone", f"--nproc-per-node={gpus}"]
    # A session of its own keeps the terminal's Ctrl-C from reaching torchrun, which would stop the processes before
    # they have saved.
    return subprocess.Popen([*torchrun, "-m", "ganctl", *argv], env=environment, start_new_session=True)


def _watch(child: "subprocess.Popen[bytes]", folder: Path, gpus: int) -> int:
    asked: list[int] = []

    def forward(number: int, frame: object) -> None:
        asked.append(number)
        started = list(folder.glob("pid-*"))
        if len(started) < gpus:
            child.terminate()
        for file in started:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), number)

    signals = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in signals}
    try:
        failed_at = 0.0
        while child.poll() is None:
            time.sleep(0.1)
            if not failed_at and any(folder.glob("error-*.json")):
                failed_at = time.monotonic()
            if failed_at and time.monotonic() - failed_at > GRACE_SECONDS:
                child.terminate()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.kill()
    errors = [_read(file) for file in folder.glob("error-*.json")]
    if errors:
        raise _first(errors)
    if child.returncode and asked:
        kind = InterruptedRun if signal.SIGINT in asked else StoppedError
        why = f"{signal.Signals(asked[0]).name}; nothing new to save"
        raise kind("training stopped before its first step", why, "run the same command again")
    if child.returncode:
        raise GanctlError("a training process ended without a word", f"torchrun returned {child.returncode}")
    return 0


def _note_pid() -> None:
    folder = os.environ.get(FOLDER)
    if folder and Path(folder).is_dir():
        (Path(folder) / f"pid-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _first(errors: list[dict[str, Any]]) -> GanctlError:
    """The earliest error: the others are usually its echoes. Its class is found by its exit code."""
    body = min(errors, key=lambda e: e["time"])
    classes = {cls.code: cls for cls in GanctlError.__subclasses__()}
    e = classes.get(body["code"], GanctlError)(body["what"], body["why"], body["hint"])
    e.kind = body["kind"]
    return e
