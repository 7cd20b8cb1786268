"""Several processes over gloo: equal to one process of the whole batch, and one end when one of them dies."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ganctl.io.bundle import read_bundle
from ganctl.load import network
from ganctl.phase import Progress
from tests.cli.runs import arguments, forked_call, log, newest, pictures, request, tensors, train

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
    equal_within(tmp_path / "two", tmp_path / "one", 30)
    # A batch that cannot be shared is refused before anything is written.
    odd = request("gan", data, tmp_path / "odd", "batch=9")
    refused = ganctl(*arguments(odd), "--gpus", "2")
    assert refused.code == 2 and refused.err.count("error: cannot share a batch of 9 among 2 GPUs") == 1
    assert not list((tmp_path / "odd").glob("*"))


def equal_within(two: Path, one: Path, count: int) -> None:
    """Every tensor of the newest snapshots, more than `count` of them, and every line of the logs, within TOLERANCE."""
    ours, theirs = tensors(newest(two)), tensors(newest(one))
    assert ours.keys() == theirs.keys() and len(ours) > count
    for name, a in ours.items():
        b = theirs[name]
        scale = float(b.double().abs().max()) or 1.0
        assert float((a.double() - b.double()).abs().max()) <= TOLERANCE * scale, name
    same_log(two, one)


def same_log(two: Path, one: Path) -> None:
    for a, b in zip(log(two), log(one), strict=True):
        assert a.keys() == b.keys() and a["nimg"] == b["nimg"]
        assert all(abs(a[k] - b[k]) <= TOLERANCE * max(1, abs(b[k])) for k in a)


def test_cyclegan_on_two_processes_equals_one_and_its_pools_too(ganctl, tmp_path: Path):
    """The pools hold images of all ranks. Of networks the outputs are compared: a bias before an instance norm has no
    gradient but rounding, which Adam makes as large as any other."""
    for side, seed in (("trainA", 0), ("trainB", 1)):
        pictures(tmp_path / "data" / side, n=8, mode="RGB", seed=seed)
    few = ("kimg=0.016", "tick=0.008", "snap=0.016", "batch=8", "mirror=true")
    two = request("cyclegan", tmp_path / "data", tmp_path / "two", *few)
    ganctl.ok(*arguments(two), "--gpus", "2")
    train(request("cyclegan", tmp_path / "data", tmp_path / "one", *few))
    ours, theirs = (tensors(newest(tmp_path / name)) for name in ("two", "one"))
    assert int(ours["pools.safetensors/A.count"]) == 3
    for key in ("A", "B"):
        a, b = (t[f"pools.safetensors/{key}.images"] for t in (ours, theirs))
        assert a.abs().max() > 0.01 and torch.allclose(a, b, atol=1e-5)
    same_log(tmp_path / "two", tmp_path / "one")
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nets = [network(read_bundle(newest(tmp_path / name)), "G_ema") for name in ("two", "one")]
    a, b = (net.AtoB(x) for net in nets)
    assert torch.allclose(a, b, atol=1e-4) and a.std() > 1e-3


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


def on_two_ranks(folder: Path, work: Callable[[int], None]) -> None:
    """`work(rank)` in two forked processes that form a group."""

    def rank(r: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=r, world_size=2)
        work(r)

    first = os.fork()
    if first == 0:
        try:
            rank(0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert forked_call(lambda: rank(1)) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0


def test_batch_norm_over_ranks_keeps_its_statistics_in_float32(tmp_path: Path):
    """Under bf16 autocast too: a batch's sums in 8 bits of mantissa would be no statistics."""
    from ganctl.nn.norm import BatchNorm

    def work(r: int) -> None:
        norm = BatchNorm(3)
        x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16):
            y = norm(x[32 * r : 32 * (r + 1)].bfloat16())
        assert y.dtype == torch.bfloat16
        want = x.bfloat16().float()
        assert torch.allclose(norm.get_buffer("running_mean"), 0.1 * want.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(norm.get_buffer("running_var"), 0.9 + 0.1 * want.var((0, 2, 3)), atol=1e-4)

    on_two_ranks(tmp_path, work)


def test_every_rank_keeps_the_same_pool_and_sees_its_own_rows(tmp_path: Path):
    """CycleGAN's pool of generated images: that of one process with the whole batch, on both ranks, bit for bit."""
    from ganctl.models.cyclegan import Pool, remembered

    def shown(r: int, world: int) -> dict[str, torch.Tensor]:
        pool = Pool(3, 1, 2)
        p = Progress(0, 0, torch.Generator().manual_seed(5), torch.device("cpu"), r, world)
        mine = slice(r * 4 // world, (r + 1) * 4 // world)
        seen = [remembered(pool, torch.full((4, 1, 2, 2), 10.0 * k + 1)[mine] + r, p) for k in range(5)]
        return {"images": pool.images, "count": pool.count, "seen": torch.stack(seen)}

    on_two_ranks(tmp_path, lambda r: save_file(shown(r, 2), tmp_path / f"{r}.safetensors"))
    first, second = (load_file(tmp_path / f"{r}.safetensors") for r in (0, 1))
    assert torch.equal(first["images"], second["images"]) and int(first["count"]) == 3
    # One process: rows 0 and 1 are those of rank 0, 2 and 3 those of rank 1, which are one more.
    pool, p = Pool(3, 1, 2), Progress(0, 0, torch.Generator().manual_seed(5), torch.device("cpu"))
    rows = torch.tensor([0.0, 0, 1, 1]).reshape(4, 1, 1, 1)
    whole = torch.stack([remembered(pool, torch.full((4, 1, 2, 2), 10.0 * k + 1) + rows, p) for k in range(5)])
    assert torch.equal(first["images"], pool.images)
    assert torch.equal(torch.cat([first["seen"], second["seen"]], 1), whole)
    # Something old was shown, or the test would tell nothing.
    assert any(bool((whole[k] < 10 * k).any()) for k in range(1, 5))
