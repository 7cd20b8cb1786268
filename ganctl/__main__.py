"""`ganctl` and `python -m ganctl`: runs a command and turns every way it can end into an exit code and a sentence."""

import contextlib
import os
import signal
import sys
from typing import NoReturn

TERMINATED = 143
BROKEN_PIPE = 1


class _Terminated(BaseException):
    """SIGTERM: unwinds the stack, so that no temporary file is left behind."""


def main() -> NoReturn:
    """Runs the command line in `sys.argv` and exits with its code."""
    code = _run(sys.argv[1:])
    # All is done: a SIGTERM from here on could only break into the interpreter's own end.
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What the interpreter would flush on its way out is flushed here, where a closed pipe is no news.
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _drop_stdout()
        code = code or BROKEN_PIPE
    sys.exit(code)


def _run(argv: list[str]) -> int:
    _prepare(argv)
    try:
        if "_GANCTL_COMPLETE" in os.environ:
            from ganctl.cli.completion import answer

            return answer(os.environ["_GANCTL_COMPLETE"], argv)
        from ganctl.cli.app import build

        if not argv:
            argv = ["--help"]
        command = build(argv[0])
        # What `command.main` would do too, without its own ideas of Ctrl-C and of closed pipes.
        with command.make_context("ganctl", list(argv)) as ctx:
            code = command.invoke(ctx)
        return code if isinstance(code, int) else 0
    except BaseException as e:
        return _ended(e, argv)


def _prepare(argv: list[str]) -> None:
    _open_streams()
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGTERM, _terminate)
    # A file name is bytes; it goes to stdout as the bytes it is.
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]
    if not {"-v", "--verbose"} & set(argv) and not sys.warnoptions:
        import warnings

        # Libraries' own notes to programmers; ganctl's warnings to users go another way.
        warnings.simplefilter("ignore")
    _color(argv)


def _open_streams() -> None:
    """Opens on nothing what was closed (`>&-`), or the next file opened would get that number and all that is printed.

    Writing to a closed stdout stays an error; a closed stderr swallows.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def _color(argv: list[str]) -> None:
    """Help is printed while options are still being read, so --color must be known before."""
    choice = next((a.partition("=")[2] for a in argv if a.startswith("--color=")), "")
    if "--color" in argv[:-1]:
        choice = argv[argv.index("--color") + 1]
    if choice == "never":
        os.environ["NO_COLOR"] = "1"
        os.environ.pop("FORCE_COLOR", None)
    elif choice == "always":
        os.environ["FORCE_COLOR"] = "1"
        os.environ.pop("NO_COLOR", None)


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _ended(e: BaseException, argv: list[str]) -> int:
    """Says how the command ended; returns its exit code."""
    if isinstance(e, SystemExit):
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    if type(e).__name__ == "Exit":  # Typer's, after --help and --version
        return getattr(e, "exit_code", 0)
    if isinstance(e, _Terminated):
        return TERMINATED
    if isinstance(e, BrokenPipeError):
        _drop_stdout()
        return BROKEN_PIPE
    options = argv[: argv.index("--")] if "--" in argv else argv
    if "--traceback" in options:
        import traceback

        traceback.print_exception(e)
    from ganctl.cli import launch, show
    from ganctl.cli.failures import as_error

    failure = as_error(e)
    if launch.report(failure) or launch.silent(failure):
        return failure.code
    show.error(failure)
    if "--json" in options or show.common().json:
        try:
            print(show.json_error(failure), flush=True)
        except (OSError, ValueError):
            _drop_stdout()
    return failure.code


def _drop_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
