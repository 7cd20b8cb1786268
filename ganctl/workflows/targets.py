"""From inputs to output files: names are checked, and clashes refused, before any work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ganctl.errors import GanctlError, PartialError, UsageError, quoted
from ganctl.io.listing import ImageRef, Input, expand_inputs
from ganctl.io.progress import SILENT, Reporter

STREAM = "-"
STDIN_STEM = "stdin"
MAX_TOLD = 5
"""Inputs left out that a warning names."""


@dataclass(frozen=True)
class Job:
    """One input and the file it becomes; `path` None is standard output."""

    ref: ImageRef
    path: Path | None

    @property
    def label(self) -> str:
        """The input as results name it: its path, `archive.zip:name`, or '-'."""
        return "-" if self.ref.source is None else self.ref.label


def list_inputs(
    inputs: Sequence[str], from_file: str | None, recursive: bool, out: Path | None, reporter: Reporter = SILENT
) -> list[Input]:
    """`expand_inputs` without the files below the output folder, which an earlier run may have left there.

    What is left out is told in one warning.
    """
    skipped: list[tuple[str, str]] = []
    found = expand_inputs(inputs, from_file, recursive, on_skip=lambda name, why: skipped.append((name, why)))
    kept = found if out is None else _outside(found, out.resolve())
    if not kept:
        raise UsageError(
            "no input", f"all {len(found)} images are in the output folder {quoted(out)}", "choose another -o"
        )
    if len(kept) < len(found):
        skipped.append((str(out), f"{len(found) - len(kept)} images there are in the output folder"))
    if skipped:
        more = f"; and {len(skipped) - MAX_TOLD} more" if len(skipped) > MAX_TOLD else ""
        told = "; ".join(f"{quoted(name)}: {why}" for name, why in skipped[:MAX_TOLD])
        reporter.warn(f"left out {len(skipped)} input{'s' * (len(skipped) > 1)}", told + more, "")
    return kept


def _outside(found: list[Input], folder: Path) -> list[Input]:
    """The inputs that do not lie below a folder; all of them when the user named it, or something inside it."""
    named = {Path(i.given).resolve() for i in found}
    if folder in named or any(folder in n.parents for n in named):
        return found
    return [i for i in found if i.ref.path is None or folder not in i.ref.path.resolve().parents]


def plan(inputs: Sequence[Input], folder: Path, name: Callable[[str], str]) -> list[Job]:
    """One job per input; the tree below a folder or archive is kept. `name` turns a file name into the output's.

    Raises UsageError when two inputs lead to one file, or an output is an input.
    """
    jobs = [Job(i.ref, folder / _relative(i.ref, name)) for i in inputs]
    refuse_clashes(jobs)
    return jobs


def _relative(ref: ImageRef, name: Callable[[str], str]) -> str:
    given = PurePosixPath(STDIN_STEM if ref.source is None else ref.name)
    return str(given.with_name(name(given.name)))


def refuse_clashes(jobs: Sequence[Job]) -> None:
    """Raises UsageError when two jobs write one file, or one writes over an input."""
    first: dict[Path, Job] = {}
    sources = {j.ref.path.resolve() for j in jobs if j.ref.path}
    clashes = []
    for job in jobs:
        if job.path is None:
            continue
        if job.path.resolve() in sources:
            what = f"cannot write {quoted(job.path)}"
            raise UsageError(what, "it is an input of this run", "choose another -o, or a --suffix")
        other = first.setdefault(job.path, job)
        if other is not job:
            clashes.append(f"{quoted(other.label)} and {quoted(job.label)} both become {quoted(job.path)}")
    if clashes:
        more = f"; and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        hint = "rename one, run them separately, or pass their common folder, whose tree is kept"
        raise UsageError("two inputs have one output", "; ".join(clashes[:3]) + more, hint)


@dataclass
class Tally:
    """Counts and reports results; at the end every input is accounted for."""

    reporter: Reporter
    stage: str
    total: int
    fail_fast: bool
    done: int = 0
    failed: list[GanctlError] = field(default_factory=list)

    def add(self, result: Mapping[str, Any], error: GanctlError | None = None) -> None:
        """One finished result, 'written', 'exists', or 'failed' with its error."""
        self.done += 1
        if error is None:
            self.reporter.result(result)
        else:
            self.failed.append(error)
            # Where the sentence names the input, as the result does, its cause is enough.
            named = quoted(result.get("input")) in error.what
            text = error.why if named and error.why else error.message
            self.reporter.result({**result, "status": "failed", "error": text})
        self.reporter.progress(self.stage, self.done, self.total)
        if error is not None and self.fail_fast:
            self.close()

    def close(self) -> None:
        """Raises PartialError if any failed; the device's error when nothing but that went wrong."""
        if not self.failed:
            return
        first = self.failed[0]
        if len(self.failed) == self.total and all(e.code == 5 for e in self.failed):
            raise first
        left = self.total - self.done
        stopped = f"; {left} not tried" if left else ""
        what = f"{len(self.failed)} of {self.total} inputs failed{stopped}"
        again = "mend or remove them and run it again: what is written is kept"
        raise PartialError(what, f"the first: {first.message}", first.hint or again)
