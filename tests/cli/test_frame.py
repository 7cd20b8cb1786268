"""What every command shares: common options, streams, error texts, exit codes, and how a command can end."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import Shell

MESSAGES = Path(__file__).parent / "messages.txt"
"""`$ ganctl …`, what it prints on stderr, and `=> exit code`, one after the other. UPDATE_MESSAGES=1 writes it anew."""
SEVERAL = {
    "config.yaml": "num: 3\nnmu: 4\n",
    "list.yaml": "- a\n",
    "bad.yaml": "num: x\n",
    "twice.yaml": "num: 1\nnum: 2\n",
}


def test_messages_are_as_they_were_read_and_approved(ganctl: Shell) -> None:
    for name, text in SEVERAL.items():
        (ganctl.folder / name).write_text(text)
    (ganctl.folder / "zoo.yaml").write_text("Bad.Name:\n  modle: dcgan\n  weights: {builtin: x}\nbad-name: 3\n")
    (ganctl.folder / "empty").mkdir()
    old = MESSAGES.read_text().split("$ ganctl")[1:]
    blocks = []
    for command in (block.splitlines()[0].strip() for block in old):
        env = {"GANCTL_ZOO": "zoo.yaml"} if command.endswith("# a faulty zoo") else {}
        done = ganctl(*words(command.partition(" #")[0]), **env)
        three_parts(done.err)
        assert not done.out
        blocks.append(f"$ ganctl {command}\n{done.err}=> {done.code}\n")
    new = "\n".join(blocks)
    if os.environ.get("UPDATE_MESSAGES"):
        MESSAGES.write_text(new)
    assert MESSAGES.read_text() == new


def words(command: str) -> list[str]:
    import shlex

    return [word.encode().decode("unicode_escape") if "\\x" in word else word for word in shlex.split(command)]


def three_parts(err: str) -> None:
    """error, why (one line per fault), hint: all there, in this order, nothing else."""
    labels = [line[:6] for line in err.splitlines()]
    assert labels[0] == "error:" and labels[1] == "  why:" and labels[-1] == " hint:", err
    assert set(labels[2:-1]) <= {"      "}, err
    assert err.isprintable() or err.replace("\n", "").isprintable(), "control characters"


def plan(ganctl: Shell, *args: str, **env: str) -> dict[str, object]:
    """The resolved request of `ganctl sample`."""
    return json.loads(ganctl.ok("sample", "--dry-run", "--json", *args, **env).out)["plan"]


def test_flag_before_environment_before_config_before_default(ganctl: Shell) -> None:
    (ganctl.folder / "c.yaml").write_text("device: cuda\nnum: 3\ngrid: null\nsave-latents: true\nquality: 80\n")
    assert plan(ganctl, GANCTL_DEVICE="")["device"] == "auto"
    from_file = plan(ganctl, "--config", "c.yaml", GANCTL_DEVICE="")
    assert from_file["device"] == "cuda" and from_file["num"] == 3 and from_file["save_latents"] is True
    assert from_file["quality"] == 80 and from_file["grid"] is None and from_file["seed"] == 0
    assert plan(ganctl, "--config", "c.yaml", GANCTL_DEVICE="mps")["device"] == "mps"
    flags = plan(ganctl, "--config", "c.yaml", "--device", "cpu", "-n", "5", GANCTL_DEVICE="mps")
    assert flags["device"] == "cpu" and flags["num"] == 5 and flags["quality"] == 80


def test_common_options_before_or_after_the_verb(ganctl: Shell) -> None:
    (ganctl.folder / "c.yaml").write_text("num: 3\n")
    before = ganctl.ok("--config", "c.yaml", "--json", "--dry-run", "--device", "mps", "sample")
    after = ganctl.ok("sample", "--config", "c.yaml", "--json", "--dry-run", "--device", "mps")
    assert before.out == after.out and json.loads(before.out)["plan"]["num"] == 3
    three = [ganctl.ok(*a).out for a in (("-q", "zoo", "list"), ("zoo", "-q", "list"), ("zoo", "list", "-q"))]
    assert three[0] == three[1] == three[2] and "dcgan-mnist" in three[0].splitlines()
    # The later one wins.
    assert (
        json.loads(ganctl.ok("--device", "mps", "sample", "--device", "cpu", "--dry-run", "--json").out)["plan"][
            "device"
        ]
        == "cpu"
    )


def test_dry_run_prints_the_plan_and_touches_nothing(ganctl: Shell) -> None:
    import yaml

    done = ganctl.ok("sample", "-n", "2", "-o", "new/", "--dry-run")
    assert yaml.safe_load(done.out)["num"] == 2
    assert not list(ganctl.folder.iterdir())
    # A plan that cannot work is refused here too.
    assert ganctl("sample", "no-such-model", "--dry-run").code == 2


def test_json_ends_with_the_error_and_its_code(ganctl: Shell) -> None:
    for args, code, kind in (
        (("zoo", "info", "dcgan-mnits", "--json"), 2, "usage"),
        (("--json", "zoo", "info", "dcgan-mnits"), 2, "usage"),
        (("sample", "--json", "--nmu"), 2, "usage"),
        (("--json", "smaple"), 2, "usage"),
        (("zoo", "pull", "inception-2015-12-05", "--offline", "--json"), 4, "weights"),
    ):
        done = ganctl(*args)
        error = json.loads(done.lines[-1])["error"]
        assert done.code == code and error["kind"] == kind and set(error) == {"kind", "message", "hint"}
        assert error["hint"] and error["message"].partition(". ")[0] in done.err
    # After `--` nothing is an option.
    assert not ganctl("zoo", "info", "--", "--json").out


def test_results_on_stdout_and_the_rest_on_stderr(ganctl: Shell) -> None:
    done = ganctl.ok("zoo", "list", "no-such-thing")
    assert done.out == "" and "no entry matches" in done.err
    quiet = ganctl.ok("zoo", "list", "no-such-thing", "-q")
    assert quiet.out == quiet.err == ""
    # Errors stay.
    assert "unknown model" in ganctl("-q", "zoo", "info", "nothing").err


def test_a_device_that_is_none(ganctl: Shell) -> None:
    done = ganctl("sample", GANCTL_DEVICE="cuda1")
    assert done.code == 2
    assert done.err.startswith(
        "error: cannot use GANCTL_DEVICE 'cuda1'\n  why: it is none of auto, cpu, cuda, cuda:N, mps"
    )
    three_parts(done.err)
    # The flag wins, so the variable does not matter.
    assert ganctl("sample", "--dry-run", "--device", "cpu", GANCTL_DEVICE="cuda1").code == 0


def test_colour(ganctl: Shell) -> None:
    wrong = ("zoo", "info", "nothing")
    assert "\x1b[" not in ganctl(*wrong).err
    assert ganctl(*wrong, "--color", "always").err.startswith("\x1b[1;31merror:\x1b[0m")
    assert "\x1b[" in ganctl("--color=always", *wrong, NO_COLOR="1").err
    assert "\x1b[" not in ganctl(*wrong, "--color", "never", FORCE_COLOR="1").err
    assert "\x1b[" in ganctl("--color", "always", "--help").out
    assert "\x1b[" not in ganctl("--help", "--color", "never", FORCE_COLOR="1").out
    assert "\x1b[" not in on_terminal(ganctl, *wrong, NO_COLOR="1")
    assert "\x1b[1;31merror:" in on_terminal(ganctl, *wrong)


def on_terminal(ganctl: Shell, *args: str, **env: str) -> str:
    """Both streams of a command whose stdout and stderr are a terminal."""
    import pty

    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ganctl", *args],
        env={**ganctl.env, "TERM": "xterm", **env},
        cwd=ganctl.folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(own, 65536):
            shown += piece
    except OSError:  # EIO: the other side is closed
        process.wait(60)
    os.close(own)
    return shown.decode().replace("\r\n", "\n")


def test_the_zoo_is_a_table_on_a_terminal_and_tab_separated_elsewhere(ganctl: Shell) -> None:
    header, *rows = on_terminal(ganctl, "zoo", "list", NO_COLOR="1", COLUMNS="160").splitlines()
    assert header.split() == ["NAME", "TASK", "PX", "CLASSES", "LICENCE", "SIZE", "HERE", "SCORE"]
    place = header.index("LICENCE")
    assert rows and all(row[place - 1] == " " and row[place] != " " for row in rows)
    lines = ganctl.ok("zoo", "list").lines
    assert len(lines) == len(rows)
    assert all(len(line.split("\t")) == 8 for line in lines)
    assert [line.split("\t")[0] for line in lines] == [row.split()[0] for row in rows]
    info = on_terminal(ganctl, "zoo", "info", "dcgan-mnist", NO_COLOR="1", COLUMNS="70").splitlines()
    assert "license        Apache-2.0" in info
    # Long values go on in their column; only what has no gap is wider than the terminal.
    assert any(line.startswith(f"{'':15}") for line in info)
    assert all(len(line) <= 70 or " " not in line[15:] for line in info)
    assert "license\tApache-2.0" in ganctl.ok("zoo", "info", "lenet-mnist").lines


def test_the_zoo_fits_into_narrow_terminals(ganctl: Shell) -> None:
    wide = on_terminal(ganctl, "zoo", "list", NO_COLOR="1", COLUMNS="160").splitlines()
    for room, gone in ((120, ["CLASSES"]), (80, ["CLASSES", "SIZE", "PX", "TASK"])):
        *table, note = on_terminal(ganctl, "zoo", "list", NO_COLOR="1", COLUMNS=str(room)).splitlines()
        assert table[0].split() == [name for name in wide[0].split() if name not in gone]
        assert max(map(len, table)) <= room
        assert [row.split()[0] for row in table] == [row.split()[0] for row in wide]
        assert note == f"no room for {', '.join(gone).lower()}: ganctl zoo info NAME tells all of one"
    # What is not for commerce says so in every width, and a score begins with its number.
    (paprika,) = [row for row in table if row.startswith("animeganv2-paprika ")]
    (cars,) = [row for row in table if row.startswith("stylegan2-car ")]
    assert paprika.split()[1] == "AnimeGANv2-NC" and cars.split()[3:] == ["2.32", "fid50k"]
    assert any("unknown (NC)" in row for row in table)


def test_version_and_the_two_ways_in(ganctl: Shell) -> None:
    from importlib.metadata import entry_points

    from ganctl import __version__
    from ganctl.__main__ import main

    assert ganctl.ok("--version").out == f"ganctl {__version__}\n"
    (script,) = [e for e in entry_points(group="console_scripts") if e.name == "ganctl"]
    assert script.load() is main
    assert ganctl.ok().out == ganctl.ok("--help").out == ganctl.ok("-h").out


def test_traceback_only_when_asked_for(ganctl: Shell) -> None:
    assert "Traceback" not in ganctl("zoo", "info", "nothing").err
    code, _, err = run(ganctl, "zoo", "info", "nothing", "--traceback")
    assert code == 2 and "Traceback" in err and "UsageError" in err and "error: unknown model 'nothing'" in err


def test_a_bug_is_one_sentence_with_its_place(ganctl: Shell) -> None:
    script = """
        import ganctl.workflows.zoo as zoo
        def broken(*_): raise RuntimeError("call torch.load with weights_only=False")
        zoo.row = broken
        from ganctl.__main__ import main
        main()
    """
    code, out, err = python(ganctl, script, "zoo", "list", "--json")
    assert code == 1
    three_parts(err)
    assert "RuntimeError (in ganctl/workflows/zoo.py, line " in err
    assert "weights_only" not in err + out and "Traceback" not in err
    assert json.loads(out)["error"]["kind"] == "failed"


def run(ganctl: Shell, *args: str, **env: str) -> tuple[int, str, str]:
    return python(ganctl, "from ganctl.__main__ import main; main()", *args, **env)


def python(ganctl: Shell, script: str, *args: str, **env: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *args]
    done = subprocess.run(
        command, env={**ganctl.env, **env}, cwd=ganctl.folder, text=True, capture_output=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_libraries_notes_are_shown_only_with_v(ganctl: Shell) -> None:
    script = """
        import warnings, ganctl.workflows.zoo as zoo
        real = zoo.row
        zoo.row = lambda *a, **k: (warnings.warn("a note to programmers"), real(*a, **k))[1]
        from ganctl.__main__ import main
        main()
    """
    env = {k: v for k, v in ganctl.env.items() if k != "PYTHONWARNINGS"}
    plain = Shell(ganctl.folder, env, ganctl.forks)
    assert "a note to programmers" not in python(plain, script, "zoo", "list")[2]
    assert "a note to programmers" in python(plain, script, "zoo", "list", "-v")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(ganctl: Shell, number: signal.Signals) -> None:
    script = """
        import ganctl.workflows.zoo as zoo, time
        def slow(*_, **__): print("begun", flush=True); time.sleep(60)
        zoo.row = slow
        from ganctl.__main__ import main
        main()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), "zoo", "list", "--json"],
        env=ganctl.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    if number == signal.SIGTERM:
        assert process.returncode == 143
        return
    assert process.returncode == 130
    three_parts(err)
    assert json.loads(out)["error"] == {
        "kind": "interrupted",
        "message": "interrupted. Ctrl-C was pressed",
        "hint": "run the same command again: what is finished is kept",
    }


def shell(ganctl: Shell, line: str) -> tuple[int, str, str]:
    line = line.replace("ganctl", f'"{sys.executable}" -m ganctl')
    done = subprocess.run(["sh", "-c", line], env=ganctl.env, cwd=ganctl.folder, text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


def test_a_broken_pipe_is_quiet(ganctl: Shell) -> None:
    for command in (("zoo", "list"), ("zoo", "list", "--json"), ("--help",), ("--version",), ("completion", "bash")):
        readable, writable = os.pipe()
        os.close(readable)
        process = subprocess.Popen(
            [sys.executable, "-m", "ganctl", *command],
            env=ganctl.env,
            stdout=writable,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writable)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (1, ""), command


def test_closed_and_full_streams(ganctl: Shell) -> None:
    code, _, err = shell(ganctl, "ganctl zoo list >&-")
    assert code == 1 and err.startswith("error: cannot write the results to stdout\n  why: Bad file descriptor\n")
    assert shell(ganctl, "ganctl zoo lsit 2>&-") == (2, "", "")
    code, out, _ = shell(ganctl, "ganctl zoo list 2>&-")
    assert code == 0 and "dcgan-mnist" in out
    code, out, _ = shell(ganctl, "ganctl zoo list <&-")
    assert code == 0 and "dcgan-mnist" in out
    assert shell(ganctl, "ganctl zoo lsit >&- 2>&-")[0] == 2
    if Path("/dev/full").exists():
        code, _, err = shell(ganctl, "ganctl zoo list > /dev/full")
        assert code == 1 and "why: No space left on device" in err
        three_parts(err)
        assert shell(ganctl, "ganctl --help > /dev/full")[0] == 1
        assert shell(ganctl, "ganctl zoo lsit 2> /dev/full")[0] == 2


def test_odd_names_cannot_steer_the_terminal(ganctl: Shell) -> None:
    done = ganctl("zoo", "info", "evil\x1b[31m\rname\n")
    assert r"'evil\x1b[31m\rname\n'" in done.err
    code, _, err = ganctl.bytes("sample", "--device", "cpu", b"\xff\xfe.png".decode(errors="surrogateescape"))
    assert code == 2 and r"\udcff" in err


def test_secrets_are_never_shown() -> None:
    from ganctl.cli.show import clean

    assert clean("Bearer hf_abcdefGHIJ12 refused") == "Bearer *** refused"
    assert clean("https://me:secret@host/x") == "https://***@host/x"
    signed = "https://cdn.host/x?X-Amz-Expires=9&X-Amz-Signature=0123abc"
    assert "0123abc" not in clean(signed) and clean(signed).startswith("https://cdn.host/x?")
    assert clean("a\nb\x1b") == "a; b\\x1b"
