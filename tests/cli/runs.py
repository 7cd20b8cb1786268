"""What the tests of training share: small pictures, small recipes, and what two runs have in common."""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ganctl.errors import GanctlError
from ganctl.io.progress import Reporter
from ganctl.workflows.train import TrainReport, TrainRequest, run
from tests.conftest import Done, Shell

SMALL = {
    "gan": ("g_hidden=[16]", "d_hidden=[16]", "z_dim=4", "channels=1"),
    "dcgan": ("ngf=4", "ndf=4", "z_dim=4", "channels=1"),
    "lsgan": ("ngf=4", "ndf=4", "z_dim=4", "channels=1"),
    "wgan": ("ngf=4", "ndf=4", "z_dim=4", "channels=1"),
    "wgan_gp": ("width=4", "z_dim=4", "channels=1"),
    "progan": ("width=4", "z_dim=4", "channels=1", "stage_kimg=0.02", "fade_kimg=0.02"),
    "cgan": ("z_dim=4", "channels=1", "classes=2"),
    "acgan": ("ngf=4", "ndf=2", "z_dim=4", "channels=1", "classes=2"),
    "infogan": ("ngf=4", "ndf=4", "noise_dim=4", "units=8", "channels=1"),
    "sngan": ("ngf=2", "ndf=2", "z_dim=4", "channels=1", "n_dis=2"),
    "sagan": ("ngf=2", "ndf=2", "z_dim=4", "channels=1", "classes=2"),
    "biggan": ("ngf=2", "ndf=2", "z_dim=6", "shared_dim=4", "channels=1", "classes=2", "batch=8"),
    "biggan_deep": ("ngf=4", "ndf=4", "z_dim=4", "shared_dim=4", "channels=1", "classes=2", "batch=8"),
    "r3gan": ("width=4", "z_dim=4", "channels=1"),
    "stylegan2": ("z_dim=8", "w_dim=8", "mapping_layers=2", "channel_base=128", "channel_max=8", "channels=1"),
    "stylegan3": (
        *("z_dim=8", "w_dim=8", "channel_base=128", "channel_max=8", "d_channel_base=128", "d_channel_max=8"),
        *("num_layers=4", "channels=1"),
    ),
    "stylegan": (
        *("width=4", "z_dim=4", "w_dim=4", "mapping_width=4", "channels=1"),
        *("grow_from=4", "stage_kimg=0.02", "fade_kimg=0.02"),
    ),
    "vae": ("hidden=[16]", "z_dim=4", "channels=1"),
    "ae": ("hidden=[16]", "z_dim=4", "channels=1"),
    "aae": ("hidden=[16]", "z_dim=4", "channels=1"),
    "wae": ("width=4", "z_dim=4", "channels=1"),
    "vaegan": ("width=4", "z_dim=4", "enc_units=8", "dis_units=8", "channels=1"),
    "stacked_gan": ("ngf=4", "ndf=4", "z_dim=4", "features=8", "g_units=8", "classes=2", "channels=1"),
    "pix2pix": ("ngf=4", "ndf=4", "num_downs=4", "n_layers=1", "batch=2"),
    "pix2pixhd": (
        "ngf=2",
        "ndf=2",
        "num_downs=2",
        "res_blocks=1",
        "num_d=2",
        "n_layers=1",
        "local_blocks=1",
        "perceptual_weight=0",
    ),
    "animegan": ("width=2", "ndf=2", "content_weight=0", "style_weight=0"),
    "cyclegan": ("ngf=4", "ndf=4", "res_blocks=1", "n_layers=1", "pool=3"),
    "munit": ("ngf=4", "ndf=4", "res_blocks=1", "n_layers=2", "scales=2", "mlp_dim=8", "batch=2"),
    "funit": ("ngf=2", "ndf=4", "res_blocks=1", "n_layers=2", "mlp_dim=8", "style_dim=4", "classes=2"),
    "srgan": ("width=4", "ndf=4", "num_blocks=1"),
    "esrgan": ("width=4", "ndf=4", "num_blocks=1", "growth=4"),
    "adain": ("width=4", "batch=2", "jitter=4"),
    "cin": ("width=4", "styles=8"),
    "lenet": ("resolution=28",),
    "vgg": ("width=4",),
}
"""Settings that make each family's networks tiny, at 16 px save where the family has one size."""


def pictures(folder: Path, n: int = 24, size: tuple[int, int] = (16, 16), mode: str = "L", seed: int = 0) -> Path:
    """n PNG files of smooth random pictures, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(folder / f"{i:03d}.png")
    return folder


def request(model: str, data: Path, out: Path, *settings: str, **fields: Any) -> TrainRequest:
    """A run of a tiny network: 8 images a step, a tick every 40, a snapshot every 200, 1000 in all."""
    small = SMALL.get(model, ())
    base = () if any(s.startswith("resolution") for s in small) else ("resolution=16",)
    pace = ("batch=8", "tick=0.04", "snap=0.2", "kimg=1", "ema_kimg=0.05")
    fields = {"device": "cpu", "changes": {}, **fields}
    return TrainRequest(
        recipe=model, data=str(data), outdir=str(out), settings=(*base, *pace, *small, *settings), **fields
    )


def train(req: TrainRequest, warnings: list[str] | None = None, notes: list[str] | None = None) -> TrainReport:
    """Trains in this process, on one thread, as the command line would."""
    torch.set_num_threads(1)
    said = [] if warnings is None else warnings
    reporter = Reporter(
        warn=lambda *parts: said.append("\n".join(parts)), note=(notes if notes is not None else []).append
    )
    report = run(req, reporter)
    assert report is not None
    return report


def arguments(req: TrainRequest) -> list[str]:
    """The same request as a command line."""
    settings = [part for s in req.settings for part in ("--set", s)]
    return ["train", req.recipe, str(req.data), "-o", str(req.outdir), *settings]


def forked(req: TrainRequest) -> Any:
    """A process of its own that trains, begun without importing everything again."""

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            train(req)
        except GanctlError as e:
            os._exit(e.code)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def forked_call(work: Callable[[], None]) -> int:
    """Exit status of a process of its own that does something: 0, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tensors(snapshot: Path | str) -> dict[str, torch.Tensor]:
    """Every tensor of a snapshot: networks, average, moments, random state."""
    files = sorted(Path(snapshot).rglob("*.safetensors"))
    assert {f.name for f in files} >= {"rng.safetensors", "optim.safetensors"}
    return {f"{f.name}/{key}": value for f in files for key, value in load_file(f).items()}


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: the newest snapshot's tensors; apart from times: log.jsonl, state and the snapshots kept."""
    ours, theirs = tensors(newest(a)), tensors(newest(b))
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if ours[k].dtype != theirs[k].dtype or not torch.equal(ours[k], theirs[k])] == []
    assert log(a) == log(b)
    assert [p.name for p in kept(a)] == [p.name for p in kept(b)]
    ours, theirs = (json.loads((newest(r) / "resume" / "state.json").read_text()) for r in (a, b))
    assert {**ours, "sha256": 0} == {**theirs, "sha256": 0}


def log(run: Path) -> list[dict[str, Any]]:
    """log.jsonl without what depends on the clock and the machine."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = ("time", "sec_per_kimg", "wait", "memory_gib")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def kept(run: Path) -> list[Path]:
    return sorted(p for p in (run / "snapshots").iterdir())


def newest(run: Path) -> Path:
    return kept(run)[-1]


def ranks(shell: Shell, *arguments: object, processes: int = 2) -> Done:
    """A command as the processes of a job, without the launcher that starts them: what all of them printed and said."""
    meet = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}

    def one(rank: int) -> Done:
        return shell(*arguments, **meet, RANK=str(rank), LOCAL_RANK=str(rank))

    with ThreadPoolExecutor(processes) as pool:
        ended = list(pool.map(one, range(processes)))
    err = "".join(done.err for done in ended)
    assert len({done.code for done in ended}) == 1, err
    return Done(ended[0].code, "".join(done.out for done in ended), err)


def free_port() -> int:
    """A port between 10000 and 30000, where jobs of Slurm meet."""
    for port in range(10000 + os.getpid() % 15000, 30000):
        with socket.socket() as s:
            if s.connect_ex(("localhost", port)):
                return port
    raise AssertionError("no free port")
