"""Fuzzes `ganctl convert`: damaged and hostile files of every container must end in a bundle or in one of our errors.

    python scripts/fuzz_reader.py --minutes 60 --out finds/      # seeds from --seed on, each one file
    python scripts/fuzz_reader.py --seed 1234 --count 1 --out finds/

Prints a line a minute, and at the end what came of the files. An input that raises anything else, takes more than 10
seconds of computing or more than a gibibyte of memory is kept in --out under its seed, and the exit code is 1.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SECONDS = 10
MEMORY = 1 << 30
"""Beyond what the process has when it begins."""
CHILD = 200
"""Inputs of one process: memory that one leaves behind is not charged to the next ones for ever."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1)
OPCODES = (
    *(b"0", b"1", b"2", b"(", b")", b"]", b"}", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"o", b"b", b"R", b"Q", b"N"),
    *(
        b"\x81",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"\x92",
        b"\x93",
        b"\x94",
        b"h\x00",
        b"q\x01",
        b".",
    ),
    *(b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"J\xff\xff\xff\x7f", b"j\x00\x00\x00\x10"),
    *(b"cos\nsystem\n", b"ctorch\nload\n", b"ccollections\nOrderedDict\n", b"\x8c\x02os\x8c\x06system\x93", b"P0\n"),
)
"""Pickle codes that are put where they do not belong."""


def sources() -> dict[str, tuple[str, bytes]]:
    """Whole files of every container: {what: (suffix, bytes)}."""
    import pytest
    import torch
    from safetensors.torch import save

    from ganctl.models import dcgan, pix2pix
    from tests.conftest import golden
    from tests.layouts import companion, dumps, openmmlab_names, plain_module, rosinality_generator, tf_pickle

    torch.manual_seed(0)
    state = dcgan.build(dcgan.Config(resolution=16, ngf=2, ndf=2, z_dim=3, channels=1)).G.state_dict()
    unet = pix2pix.build(pix2pix.Config(resolution=16, num_downs=4, ngf=2, ndf=2, n_layers=1)).G.state_dict()

    def torch_file(value: object, *, zipped: bool = True) -> bytes:
        out = io.BytesIO()
        torch.save(value, out, _use_new_zipfile_serialization=zipped)
        return out.getvalue()

    files = {
        "torch zip": (".pth", torch_file({"netG": state, "epoch": 3})),
        "torch zip, flat": (".pth", torch_file(unet)),
        "torch legacy": (".pth", torch_file({"netG": state, "epoch": 3}, zipped=False)),
        "plain classes": (
            ".pkl",
            dumps({"G": plain_module("training.networks.Generator", dict(state)), "cur_nimg": 5}),
        ),
        "safetensors": (".safetensors", save({k: t.contiguous() for k, t in state.items()})),
    }
    tiny, sizes = "stylegan2ada-tiny-r32", {"num_channels": 3, "label_size": 0, "fmap_base": 256, "fmap_max": 24}
    with contextlib.suppress(pytest.skip.Exception):  # without the recorded snapshots
        G, D, Gs = (companion(tiny, k) for k in ("G", "D", "G_ema"))
        mmlab = {f"generator_ema.{k}": t for k, t in openmmlab_names(rosinality_generator(Gs)).items()}
        files["OpenMMLab"] = (".pth", torch_file({"meta": {}, "state_dict": mmlab}))
        files["NVIDIA torch"] = (".pkl", golden(f"nvidia-pickle/{tiny}.pkl").read_bytes())
        files["NVIDIA TensorFlow"] = (".pkl", tf_pickle(G, D, Gs, resolution=32, **sizes))
    return files


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def number(data: bytearray, rng: random.Random) -> None:
    """A count, size or offset becomes an absurd one."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) - width))
    data[at : at + width] = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(
        width, rng.choice(("little", "big"))
    )


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 64, 512))]


def repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((1, 8, 64, 512))] * rng.choice((1, 2, 50))


def swap(data: bytearray, rng: random.Random) -> None:
    n = rng.choice((4, 32, 256))
    a, b = (rng.randrange(max(1, len(data) - n)) for _ in range(2))
    data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]


def opcode(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.randrange(2)] = rng.choice(OPCODES)


PLAIN = (flip, number, drop, repeat, swap, opcode, opcode)


def some(data: bytes, rng: random.Random, near: int) -> bytes:
    """A few mutations, most of them among the first `near` bytes, where names and counts are."""
    head = bytearray(data[:near] if rng.random() < 0.7 else data)
    rest = data[len(head) :]
    for _ in range(rng.choice((1, 1, 2, 5))):
        if head:
            rng.choice(PLAIN)(head, rng)
    return bytes(head) + rest


def in_zip(data: bytes, rng: random.Random) -> bytes:
    """Records changed and packed anew, so that the archive itself is sound."""
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        records = {name: z.read(name) for name in z.namelist()}
    name = next(n for n in records if n.endswith("data.pkl")) if rng.random() < 0.8 else rng.choice(list(records))
    records[name] = some(records[name], rng, 4096)
    if rng.random() < 0.2:
        del records[rng.choice(list(records))]
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for key, value in records.items():
            z.writestr(key, value)
            if rng.random() < 0.02:
                z.writestr(key, value)
    return out.getvalue()


def directory(data: bytes, rng: random.Random) -> bytes:
    """The zip's directory lies: sizes, offsets, flags, counts."""
    found = bytearray(data)
    marks = [i for sig in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06") if (i := data.rfind(sig)) >= 0]
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.choice(marks) + 4 + rng.randrange(42)
        width = rng.choice((2, 4))
        found[at : at + width] = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(found)


def header(data: bytes, rng: random.Random) -> bytes:
    """The header of a .safetensors: other shapes, offsets, types, names, or a length that lies."""
    (size,) = struct.unpack_from("<Q", data)
    told = json.loads(data[8 : 8 + size])
    for _ in range(rng.choice((1, 2, 5))):
        name = rng.choice(list(told))
        entry = told[name]
        wrong = rng.choice((*NUMBERS, -1, 1.5, "x", None, [], {}, [1 << 40] * 9, "F64", "BF16", 1e308))
        match rng.randrange(4):
            case 0 if isinstance(entry, dict):
                entry[rng.choice(("dtype", "shape", "data_offsets", "more"))] = wrong
            case 1 if isinstance(entry, dict) and isinstance(entry.get("shape"), list) and entry["shape"]:
                entry["shape"][rng.randrange(len(entry["shape"]))] = wrong
            case 2:
                told[rng.choice((f"{name}.0", "main.9999.weight", "\x1b[31m", "", "a" * 5000, "main.0.weight"))] = entry
            case _:
                told[name] = wrong
    text = json.dumps(told).encode()
    length = rng.choice(NUMBERS) if rng.random() < 0.1 else len(text)
    return struct.pack("<Q", length) + text + data[8 + size :]


def made(seed: int, files: dict[str, tuple[str, bytes]]) -> tuple[str, str, bytes]:
    """The input of a seed: what it was, its suffix, its bytes."""
    rng = random.Random(seed)
    what = rng.choice(list(files))
    suffix, data = files[what]
    ways: list[Callable[[bytes, random.Random], bytes]] = [lambda d, r: some(d, r, 8192)]
    if data.startswith(b"PK"):
        ways += [in_zip, in_zip, in_zip, directory]
    if suffix == ".safetensors":
        ways += [header, header, header]
    data = rng.choice(ways)(data, rng)
    if rng.random() < 0.1:
        found = bytearray(data)
        cut(found, rng) if found else None
        data = bytes(found)
    if rng.random() < 0.05:
        other = rng.choice(list(files.values()))[1]
        at = rng.randrange(len(data) + 1)
        data = data[:at] + other[rng.randrange(len(other)) :][:4096] + data[at:]
    return what, rng.choice((suffix, suffix, suffix, ".pth", ".pkl")), data


class TooLongError(BaseException):
    """More than SECONDS of computing."""


def answer(path: Path) -> str:
    """'bundle', or 'refused'; anything else that `convert` does is raised."""
    from ganctl.errors import GanctlError
    from ganctl.workflows.convert import ConvertRequest, run

    out = path.with_name("bundle")
    shutil.rmtree(out, ignore_errors=True)
    try:
        run(ConvertRequest(source=str(path), out=str(out), license="MIT"))
    except GanctlError as e:
        if not (e.what and e.why and e.hint) or len(e.message) > 4000 or not e.message.replace("\n", "").isprintable():
            raise AssertionError(f"not one clear error: {e.message[:500]!r}") from e
        if out.exists():
            raise AssertionError("an error, and a bundle too") from e
        return "refused"
    return "bundle"


def work(seeds: range, folder: Path, files: dict[str, tuple[str, bytes]], report: int) -> None:
    """In a process of its own: every seed's file, its outcome to the pipe as a pickle a line."""

    def stop(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGPROF, stop)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with os.fdopen(report, "wb") as pipe:
        for seed in seeds:
            what, suffix, data = made(seed, files)
            path = folder / f"input{suffix}"
            path.write_bytes(data)
            begun = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                said = answer(path)
            except BaseException as e:
                said = "".join(traceback.format_exception(e))[-3000:]
            signal.setitimer(signal.ITIMER_PROF, 0)
            pickle.dump((seed, what, said, time.process_time() - begun), pipe)
            pipe.flush()
            path.unlink()


def batch(seeds: range, folder: Path, files: dict[str, tuple[str, bytes]]) -> list[tuple[int, str, str, float]]:
    """Outcomes of the seeds; a process that dies is the find of the seed it had."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        work(seeds, folder, files, writing)
        os._exit(0)
    os.close(writing)
    found = []
    with os.fdopen(reading, "rb") as pipe:
        while True:
            try:
                found.append(pickle.load(pipe))
            except EOFError:
                break
    _, status = os.waitpid(child, 0)
    if status:
        seed = seeds[len(found)]
        found.append((seed, made(seed, files)[0], f"the process ended with status {status}", 0.0))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1 << 40)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files, begun, last = sources(), time.monotonic(), 0.0
    tally: collections.Counter[tuple[str, str]] = collections.Counter()
    slowest, finds, seed, end = (0.0, 0), 0, args.seed, args.seed + args.count
    while seed < end and time.monotonic() - begun < args.minutes * 60:
        results = batch(range(seed, min(end, seed + CHILD)), args.out, files)
        for number_, what, said, seconds in results:
            kind = said if said in ("bundle", "refused") else "FIND"
            tally[what, kind] += 1
            slowest = max(slowest, (seconds, number_))
            if kind == "FIND":
                finds += 1
                _, suffix, data = made(number_, files)
                (args.out / f"{number_}{suffix}").write_bytes(data)
                (args.out / f"{number_}.txt").write_text(f"{what}\n{seconds:.1f} s\n{said}")
                print(f"find: seed {number_} ({what}): {said.strip().splitlines()[-1][:160]}", flush=True)
        seed = results[-1][0] + 1
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(
                f"{sum(tally.values())} files, {finds} finds, slowest {slowest[0]:.1f} s (seed {slowest[1]})",
                flush=True,
            )
    for (what, kind), n in sorted(tally.items()):
        print(f"{what:20} {kind:8} {n}")
    print(
        f"{sum(tally.values())} files in {(time.monotonic() - begun) / 60:.1f} minutes, {finds} finds, next seed {seed}"
    )
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
