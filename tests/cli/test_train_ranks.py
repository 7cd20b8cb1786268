"""Several processes over gloo: equal to one process of the whole batch, and one end when one of them dies."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import torch

from tests.cli.runs import arguments, log, newest, pictures, request, tensors, train

TOLERANCE = 1e-5
"""Sums over two halves differ from the sum over the whole in the last bits of float32."""


def test_two_processes_equal_one_of_the_whole_batch(ganctl, tmp_path: Path):
    # WGAN: batch norm over ranks, RMSProp, clipping, several batches a step; with accumulation on top.
    data = pictures(tmp_path / "data", mode="RGB")
    few = ("kimg=0.4", "batch=8", "mirror=true")
    two = request("wgan", data, tmp_path / "two", *few, "batch_gpu=2")
    done = ganctl.ok(*arguments(two), "--gpus", "2", "--json")
    assert json.loads(done.out)["nimg"] == 400
    assert done.err.count("kimg 0.2 ") == 1, "one process speaks"
    train(request("wgan", data, tmp_path / "one", *few, "batch_gpu=4"))
    ours, theirs = tensors(newest(tmp_path / "two")), tensors(newest(tmp_path / "one"))
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name, a in ours.items():
        b = theirs[name]
        scale = float(b.double().abs().max()) or 1.0
        assert float((a.double() - b.double()).abs().max()) <= TOLERANCE * scale, name
    for a, b in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert a.keys() == b.keys() and a["nimg"] == b["nimg"]
        assert all(abs(a[k] - b[k]) <= TOLERANCE * max(1, abs(b[k])) for k in a)
    # A batch that cannot be shared is refused before anything is written.
    odd = request("gan", data, tmp_path / "odd", "batch=9")
    refused = ganctl(*arguments(odd), "--gpus", "2")
    assert refused.code == 2 and refused.err.count("error: cannot share a batch of 9 among 2 GPUs") == 1
    assert not list((tmp_path / "odd").glob("*"))


def test_a_killed_process_ends_the_job_with_one_error_and_the_command_goes_on(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    long = request("gan", data, tmp_path / "r", "kimg=1000", "snap=0.4", "tick=0.2")
    process = ganctl.start(*arguments(long), "--gpus", "2")
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "snapshots" / "000000.400").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(rank_of(process.pid, "1"), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    text = err.decode()
    assert process.returncode == 1 and out == b""
    assert text.count("error:") == 1 and "Traceback" not in text and "elastic" not in text, text
    assert "error: process 0 lost another of the 2 processes" in text and "run the same command again" in text
    # Bit for bit what one process would be is promised for one process; here it goes on, and a stop is forwarded.
    process = ganctl.start(*arguments(long), "--gpus", "2")
    before = log(tmp_path / "r")[-1]["nimg"]
    while log(tmp_path / "r")[-1]["nimg"] <= before + 200:
        assert process.poll() is None and time.monotonic() < deadline + 60
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and err.count(b"error: training stopped at") == 1
    assert json.loads((newest(tmp_path / "r") / "resume" / "state.json").read_text())["nimg"] > 400


def rank_of(launcher: int, rank: str) -> int:
    """The process of a rank, among the launcher's descendants."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(ppid) for pid, ppid in (line.split() for line in table.splitlines())}

    def below(pid: int) -> bool:
        return pid == launcher or (pid in parents and below(parents[pid]))

    for pid in parents:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if below(pid) and f"RANK={rank}".encode() in environment:
            return pid
    raise AssertionError("no such process")


def test_batch_norm_over_ranks_keeps_its_statistics_in_float32(tmp_path: Path):
    """Under bf16 autocast too: a batch's sums in 8 bits of mantissa would be no statistics."""
    from tests.cli.runs import forked_call

    def rank(r: int) -> None:
        import torch.distributed as dist

        from ganctl.nn.norm import BatchNorm

        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=r, world_size=2)
        norm = BatchNorm(3)
        x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16):
            y = norm(x[32 * r : 32 * (r + 1)].bfloat16())
        assert y.dtype == torch.bfloat16
        want = x.bfloat16().float()
        assert torch.allclose(norm.running_mean, 0.1 * want.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(norm.running_var, 0.9 + 0.1 * want.var((0, 2, 3)), atol=1e-4)

    first = os.fork()
    if first == 0:
        try:
            rank(0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert forked_call(lambda: rank(1)) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
