"""Commands forked from a process that has torch loaded: as real as processes started afresh, seconds sooner each.

`python -m tests.forkserver FD` is that process; `Forkserver` is a test's end of the socket FD. The child goes on as the
program itself, from `ganctl`'s first import to its exit code: only LOADED was there before. What an interpreter does
after that to free memory, which the system frees sooner, is left to the commands that tests start afresh.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MESSAGE = 1 << 17
LOADED = (
    *("torch", "torch._dynamo", "scipy.linalg", "numpy.ma", "jaxtyping", "safetensors.torch", "pydantic.dataclasses"),
    *("pydantic._internal._generate_schema", "yaml", "typer.main", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
    *("PIL.GifImagePlugin", "PIL.BmpImagePlugin", "PIL.PpmImagePlugin"),
)
"""Libraries that nearly every command loads, `torch._dynamo` with the first optimizer. They read no settings."""


class Forkserver:
    """The tests' end. One for each pytest process, ended with it."""

    def __init__(self, env: dict[str, str], *options: str) -> None:
        """`options` are the interpreter's, of this process and so of all commands."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, *options, "-m", "tests.forkserver", str(theirs.fileno())]
        # Pipes, as the children's: Python has looked at its streams before they are exchanged.
        pipe, fds = subprocess.PIPE, [theirs.fileno()]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=fds)
        theirs.close()

    def close(self) -> None:
        self.socket.close()
        self.process.communicate(timeout=30)

    def run(
        self, args: Sequence[str], stdin: bytes, *, cwd: Path, env: dict[str, str], timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Exit code (minus the signal's number), stdout, stderr. Raises TimeoutExpired when it has killed the child."""
        pipes = [os.pipe() for _ in range(4)]
        (stdin_r, stdin_w), (out_r, out_w), (err_r, err_w), (status_r, status_w) = pipes
        theirs = [stdin_r, out_w, err_w, status_w]
        socket.send_fds(self.socket, [json.dumps([list(args), str(cwd), env]).encode()], theirs)
        for fd in theirs:
            os.close(fd)
        found: dict[str, bytes] = {}
        readers = [
            threading.Thread(target=_read, args=(name, fd, found)) for name, fd in (("out", out_r), ("err", err_r))
        ]
        with os.fdopen(status_r, "rb") as status, os.fdopen(stdin_w, "wb", 0) as pipe:
            pid = int(status.readline())
            timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            for thread in (timer, *readers):
                thread.start()
            # A command may end without having read its input.
            with contextlib.suppress(BrokenPipeError):
                while stdin:
                    stdin = stdin[pipe.write(stdin) :]
            pipe.close()
            code = os.waitstatus_to_exitcode(int(status.readline()))
        late = not timer.is_alive()
        timer.cancel()
        for thread in readers:
            thread.join()
        if late:
            raise subprocess.TimeoutExpired(list(args), timeout, found["out"], found["err"])
        return code, found["out"], found["err"]


def _read(name: str, fd: int, found: dict[str, bytes]) -> None:
    with os.fdopen(fd, "rb") as file:
        found[name] = file.read()


def serve(requests: socket.socket) -> list[str]:
    """Forks for each request; returns in the child alone, with its arguments, folder, environment and streams set."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(requests, MESSAGE, 4)
        if not message:
            os._exit(0)
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    # This process waits for the command, and tells how it ended; the socket is the server's alone.
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = fds.pop()
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        os.write(status, b"%d\n" % pid)
        os.write(status, b"%d\n" % os.waitpid(pid, 0)[1])
        os._exit(0)
    os.close(status)
    for place, fd in enumerate(fds):
        os.dup2(fd, place)
        os.close(fd)
    args, folder, env = json.loads(message)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    return args


def end(code: int) -> None:
    """What the interpreter does when the program has ended, but for the destruction of every object."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for library in LOADED:
        importlib.import_module(library)
    # Children share what they do not write to, and a collection writes to all it looks at.
    gc.collect()
    gc.freeze()
    sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        runpy.run_module("ganctl", run_name="__main__", alter_sys=True)
    except SystemExit as e:
        # What is still open is told as it is freed.
        if "error::ResourceWarning" in sys.warnoptions:
            raise
        assert isinstance(e.code, int), e.code
        end(e.code)
