"""Several processes over gloo: equal to one process of the whole batch, and one end when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ganctl.cli import launch
from ganctl.errors import GanctlError, StoppedError, UsageError
from ganctl.io.progress import SILENT
from ganctl.phase import Progress
from ganctl.workflows.train import TrainRequest
from tests.cli.runs import arguments, free_port, log, newest, pictures, request, tensors, train
from tests.conftest import Shell

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


FAMILIES = {
    # Batch norm over ranks, and adaptive augmentation, which follows D's verdicts of all of them.
    "dcgan": (4, ("aug=ada", "mirror=true")),
    "wgan_gp": (2, ("mirror=true",)),
    # Groups of the minibatch deviation, the mean of w, the mean of path lengths.
    "stylegan2": (4, ("mbstd_group=2", "r1_every=2", "pl_every=2")),
    # A pool that holds images of all ranks.
    "cyclegan": (4, ("mirror=true",)),
    # A loss between the images of a batch.
    "wae": (2, ()),
}


@pytest.mark.parametrize("model", FAMILIES)
def test_all_ranks_hold_the_same_and_learn_what_one_process_learns(model: str, tmp_path: Path):
    """Bit for bit among ranks; against one process by the losses, each of which comes of what was learned before.

    Weights are no measure there: a bias before a norm has no gradient but rounding, which Adam makes as large as any.
    """
    for side, seed in (("trainA", 0), ("trainB", 1)):
        pictures(tmp_path / "data" / side, n=8, mode="RGB", seed=seed)
    count, settings = FAMILIES[model]
    req = request(model, tmp_path / "data", tmp_path / "run", *settings)
    one, (first, *others) = learned(req, 3), learned_on(count, req, 3, tmp_path)
    for other in others:
        assert first.keys() == other.keys()
        assert [k for k in first if not torch.equal(first[k], other[k])] == []
    losses = [k for k in one if k.startswith("loss/")]
    assert len(losses) > 1
    assert [k for k in losses if not close(first[k], one[k])] == []
    if model == "cyclegan":
        a, b = (held["pools/A.images"] for held in (first, one))
        assert a.abs().max() > 0.01 and torch.allclose(a, b, atol=1e-5)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path):
    """2, then 1, 2 and 4: the same images in the same order and the same draws; sums differ in their last bits."""
    req = request("dcgan", pictures(tmp_path / "data", mode="RGB"), tmp_path / "run", "mirror=true", "aug=ada")
    one = learned(req, 12)
    for count in (2, 1, 2, 4):
        found = learned_on(count, req, 3, tmp_path, tmp_path / "kept")[0]
    assert found.keys() == one.keys()
    assert [k for k in one if not close(found[k], one[k])] == []
    assert torch.equal(found["rng"], one["rng"]) and int(found["nimg"]) == 96


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Within TOLERANCE of the largest number."""
    return float((a.double() - b.double()).abs().max()) <= TOLERANCE * max(1.0, float(b.double().abs().max()))


def learned(req: TrainRequest, steps: int, run: Path | None = None) -> dict[str, torch.Tensor]:
    """What this rank holds after some steps, those from the newest snapshot of `run`, where the last is saved:
    networks, average, moments, random state and the means of losses."""
    from ganctl.data.loader import batches
    from ganctl.load import family
    from ganctl.train import checkpoint, optim
    from ganctl.train.loop import adapted, drain, level, train_step
    from ganctl.workflows.train import check, new_state, open_data

    recipe = check(req).recipe
    cfg, data = recipe.train, open_data(recipe, 1, SILENT)
    state = new_state(recipe, torch.device("cpu"))
    p = state.progress
    if run and (found := checkpoint.snapshots(run)):
        checkpoint.restore(found[-1], state)
    side = recipe.config.resolution
    options = {"size": cfg.batch, "resolution": side, "seed": 0, "start": p.nimg, "rank": p.rank, "world": p.world}
    stream, phases = batches(data, recipe.data, **options), adapted(family(recipe.model).phases(recipe.config), cfg)
    for _ in range(steps):
        train_step(state, phases, stream, cfg)
    level(state)
    if run and not p.rank:
        plain, scores = recipe.plain()["config"], checkpoint.Scores()
        checkpoint.save(run, state, model=recipe.model, config=plain, card={}, scores=scores)
    held = {**checkpoint._states(state), "moments": optim.state_of(state.optimizers)}
    flat = {f"{net}/{k}": t.contiguous().clone() for net, tensors in held.items() for k, t in tensors.items()}
    losses = {f"loss/{name}": torch.tensor(value) for name, value in drain(state).items()}
    return {**flat, **losses, "rng": p.rng.get_state(), "nimg": torch.tensor(p.nimg)}


def learned_on(count: int, req: TrainRequest, steps: int, folder: Path, run: Path | None = None) -> list[dict]:
    """The same of each of so many ranks."""
    on_ranks(count, folder, lambda r: save_file(learned(req, steps, run), folder / f"{r}.safetensors"))
    return [load_file(folder / f"{r}.safetensors") for r in range(count)]


def on_ranks(count: int, folder: Path, work: Callable[[int], None]) -> None:
    """`work(rank)` in so many forked processes that form a group."""
    store = folder / f"store-{time.monotonic_ns()}"

    def joined(rank: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        work(rank)

    assert forks(count, joined) == [0] * count


def forks(count: int, work: Callable[[int], None]) -> list[int]:
    """How `work(rank)` ended in each of so many forked processes: 0, or 1 for an exception."""
    children = []
    for rank in range(count):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                work(rank)
            except BaseException as e:
                print(f"rank {rank}: {e!r}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def test_a_killed_process_ends_the_job_with_one_error_and_the_command_goes_on(ganctl, tmp_path: Path):
    """One of four; it goes on with two."""
    data = pictures(tmp_path / "data")
    long = request("gan", data, tmp_path / "r", "kimg=1000", "snap=0.4", "tick=0.2")
    process = ganctl.start(*arguments(long), "--gpus", "4")
    wait_for(process, tmp_path / "r" / "snapshots" / "000000.400")
    os.kill(rank_of(process.pid, "2"), signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    text = err.decode()
    assert process.returncode == 1 and out == b""
    assert text.count("error:") == 1 and "Traceback" not in text and "elastic" not in text, text
    assert " lost another of the 4 processes" in text and "run the same command again" in text
    # Bit for bit what one process would be is promised for one process; here it goes on, and a stop is forwarded.
    process = ganctl.start(*arguments(long), "--gpus", "2")
    before, deadline = log(tmp_path / "r")[-1]["nimg"], time.monotonic() + 240
    while log(tmp_path / "r")[-1]["nimg"] <= before + 200:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
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

    on_ranks(2, tmp_path, work)


def test_every_rank_keeps_the_same_pool_and_sees_its_own_rows(tmp_path: Path):
    """CycleGAN's pool of generated images: that of one process with the whole batch, on both ranks, bit for bit."""
    from ganctl.models.cyclegan import Pool, remembered

    def shown(r: int, world: int) -> dict[str, torch.Tensor]:
        pool = Pool(3, 1, 2)
        p = Progress(0, 0, torch.Generator().manual_seed(5), torch.device("cpu"), r, world)
        rows = torch.arange(4.0)[r::world].reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        seen = [remembered(pool, rows + 10.0 * k + 1, p) for k in range(5)]
        return {"images": pool.images, "count": pool.count, "seen": torch.stack(seen)}

    on_ranks(2, tmp_path, lambda r: save_file(shown(r, 2), tmp_path / f"{r}.safetensors"))
    whole, *ranks = shown(0, 1), *(load_file(tmp_path / f"{r}.safetensors") for r in (0, 1))
    for r, found in enumerate(ranks):
        assert torch.equal(found["images"], whole["images"]) and int(found["count"]) == 3
        assert torch.equal(found["seen"], whole["seen"][:, r::2])
    # Something old was shown, or the test would tell nothing.
    assert any(bool((whole["seen"][k] < 10 * k).any()) for k in range(1, 5))


def test_torchrun_starts_a_job_again_whose_process_died_and_it_ends_as_the_undisturbed_run(ganctl, tmp_path: Path):
    data = pictures(tmp_path / "data")
    req = request("gan", data, tmp_path / "r", "kimg=4", "snap=1", "tick=0.2")
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "ganctl", *arguments(req)]
    process = subprocess.Popen(command, cwd=ganctl.folder, env=ganctl.env, stderr=subprocess.PIPE)
    wait_for(process, tmp_path / "r" / "snapshots" / "000001")
    os.kill(rank_of(process.pid, "1"), signal.SIGKILL)
    text = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, text
    assert text.count("error:") == 1 and "torchrun starts it again: it goes on from what was saved last" in text
    train(request("gan", data, tmp_path / "one", "kimg=4", "snap=1", "tick=0.2"))
    same_log(tmp_path / "r", tmp_path / "one")


def wait_for(process: "subprocess.Popen[bytes]", path: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_the_tasks_of_srun_are_one_job(ganctl: Shell, tmp_path: Path):
    req = request("gan", pictures(tmp_path / "data"), tmp_path / "r", "kimg=0.04")
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(free_port() - 10000)}
    # Options may stand before the command.
    line = ("--device", "cpu", *arguments(req))
    tasks = [ganctl.start(*line, env={**slurm, "SLURM_PROCID": r, "SLURM_LOCALID": r}) for r in ("0", "1")]
    (first, told), (second, nothing) = (task.communicate(timeout=240) for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], told + nothing
    assert first.decode().split() == [str(newest(tmp_path / "r"))] and b"kimg 0.04" in told
    assert (second, nothing) == (b"", b"")
    assert json.loads((tmp_path / "r" / "run.json").read_text())["gpus"] == 2


def test_slurm_variables_become_those_of_torchrun(monkeypatch: pytest.MonkeyPatch):
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

    def adopted(**said: str) -> list[str | None]:
        monkeypatch.setattr(os, "environ", dict(said))
        launch.adopt_slurm()
        return [os.environ.get(name) for name in names]

    step = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "40123"}
    nodes = {"SLURM_JOB_NODELIST": "gpu[02-03,7]"}
    assert adopted(**step, **nodes) == ["16", "9", "1", "gpu02", "10123"]
    # A step on some of the job's nodes, with its own number of tasks.
    part = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu7", "SLURM_STEP_ID": "1", "ENVIRONMENT": "BATCH"}
    assert adopted(**step, **nodes, **part) == ["4", "9", "1", "gpu7", "10123"]
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}
    assert adopted(**step, **nodes, **chosen)[3:] == ["10.0.0.1", "5"]
    # A script of sbatch, a single task, torchrun inside Slurm, no Slurm: all as they are.
    assert adopted(**step, ENVIRONMENT="BATCH")[0] is None
    assert adopted(**{**step, "SLURM_NTASKS": "1"})[0] is None
    assert adopted(**step, WORLD_SIZE="2")[:2] == ["2", None]
    assert adopted() == [None] * 5


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[03-07,9]", "node03"),
        ("a1,b2", "a1"),
        ("gpu-7", "gpu-7"),
        ("rack[1-2]n[08,11]-ib,x", "rack1n08-ib"),
        ("n[5]", "n5"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str):
    assert launch.first_node(nodes) == first


def test_of_a_failure_that_all_processes_meet_one_tells(tmp_path: Path):
    from ganctl.train import distributed

    port = str(free_port())

    def work(rank: int) -> None:
        os.environ |= {"WORLD_SIZE": "3", "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        try:
            with distributed.job(torch.device("cpu")):
                distributed.barrier()
                raise UsageError("cannot")
        except UsageError as e:
            assert e.echo is not None and launch.silent(e) == e.echo
            if not e.echo:
                (tmp_path / f"{rank}").touch()

    assert forks(3, work) == [0, 0, 0] and len(list(tmp_path.iterdir())) == 1


def test_before_they_have_met_the_first_of_a_machine_tells(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launch.silent(UsageError("no such path")) and launch.silent(StoppedError("stopped"))
    assert not launch.silent(GanctlError("a fault of this process alone"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not launch.silent(UsageError("no such path"))


def test_a_job_that_cannot_meet_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    from datetime import timedelta

    from ganctl.train import distributed

    cpu = torch.device("cpu")
    monkeypatch.setattr(distributed, "MEET", timedelta(seconds=1))
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UsageError, match=r"cannot join a job of '2' processes.*MASTER_PORT"), distributed.job(cpu):
        pass
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(GanctlError, match="they did not all come to 'localhost'") as e, distributed.job(cpu):
        pass
    assert e.value.code == 1
