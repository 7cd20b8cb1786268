"""Features block by block: in order, in constant memory, whole again from the disk, bad images told apart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganctl.errors import UsageError
from ganctl.io.threads import ordered
from ganctl.metrics.blocks import BLOCK, Block, Look, extract, merged, read_block, split, write_block
from ganctl.metrics.features import Extractor
from ganctl.metrics.statistics import Seen


def extractor(extract: Any = None, dims: int = 2) -> Extractor:
    return Extractor("f", "m", dims, "", lambda x: x, extract or (lambda images: torch.from_numpy(np.stack(images))))


def look(i: int) -> Look:
    """Every tenth image is bad; every seventh has a mirror image."""
    if i % 10 == 0:
        return Look(bad=(f"{i}.png", "it is empty"))
    view = (np.array([float(i), i % 7], np.float32),)
    return Look([view] * (2 if i % 7 == 0 else 1), "8x8", "grey", "png", ["odd"] if i % 100 == 1 else [], i)


def test_blocks_are_in_order_and_at_most_a_few_batches_are_in_memory() -> None:
    opened, done, most, sizes = 0, 0, 0, []

    def items(block: range) -> Iterator[int]:
        nonlocal opened, most
        for i in block:
            opened += 1
            most = max(most, opened - done)
            yield i

    def count(images: Any) -> torch.Tensor:
        nonlocal done
        done += len(images)
        sizes.append(len(images))
        return torch.from_numpy(np.stack(images))

    heard: list[int] = []
    n = 2 * BLOCK + 500
    settings = {"batch_size": 16, "workers": 3, "skip_bad": True}
    blocks = list(extract(split(n), items, look, [extractor(count)], **settings, done=heard.append))
    assert [len(b.digests) + len(b.bad) for b in blocks] == [BLOCK, BLOCK, 500]
    wanted = [i for i in range(n) if i % 10 for _ in range(2 if i % 7 == 0 else 1)]
    assert np.concatenate([b.positions for b in blocks]).tolist() == wanted
    assert np.concatenate([b.features[0] for b in blocks])[:, 0].tolist() == wanted
    assert np.concatenate([b.digests for b in blocks]).tolist() == [i for i in range(n) if i % 10]
    assert [name for b in blocks for name, _ in b.bad] == [f"{i}.png" for i in range(0, n, 10)]
    assert heard == list(range(1, n + 1)) and max(sizes) == 16
    # A batch, what threads look at ahead of it, and the bad ones, which are never counted off.
    assert most <= 16 + 22 + 6 + n // 10
    seen = merged(b.seen for b in blocks)
    assert (seen.skipped, seen.formats, seen.notes) == (255, {"png": n - 255}, {"odd": 26})


def test_after_a_bad_image_the_others_are_read_and_not_measured() -> None:
    measured, read = [], []

    def note(i: int) -> Look:
        read.append(i)
        return look(i + 1)

    def measure(images: Any) -> torch.Tensor:
        measured.extend(images)
        return torch.from_numpy(np.stack(images))

    run = {"batch_size": 4, "workers": 0}
    (block,) = extract([range(30)], lambda b: b, note, [extractor(measure)], **run)
    assert len(read) == 30 and len(measured) == 8 and len(block.bad) == 3
    read.clear()
    (block,) = extract([range(30), range(30, 60)], lambda b: b, note, [extractor(measure)], **run, fail_fast=True)
    assert read == list(range(10)) and len(block.bad) == 1


def test_a_block_survives_the_disk_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    seen = Seen({"8x8": 3}, {"png": 3}, {"grey": 3}, {"turned": 1})
    made = Block([rows, rows[:, :1]], np.array([0, 1, 1]), seen, np.array([1, 2**64 - 1], np.uint64))
    path = tmp_path / "deep" / "block.npz"
    write_block(path, made)
    both = [extractor(), extractor(dims=1)]
    found = read_block(path, both)
    assert found is not None and found.seen == seen
    assert found.positions.tolist() == [0, 1, 1] and found.digests.tolist() == [1, 2**64 - 1]
    for a, b in zip(found.features, made.features, strict=True):
        assert a.dtype == np.float32 and (a == b).all()
    assert read_block(path, both[::-1]) is None and read_block(path, [*both, extractor()]) is None
    assert read_block(tmp_path / "none.npz", both) is None
    path.write_bytes(path.read_bytes()[:-40])
    assert read_block(path, both) is None


def test_an_error_in_a_thread_comes_out_and_ends_the_threads() -> None:
    def work(i: int) -> int:
        if i == 5:
            raise UsageError("the fifth", "is bad")
        return i

    with pytest.raises(UsageError, match="the fifth"):
        list(ordered(work, range(10_000), 2))
    assert list(ordered(lambda i: i * i, range(50), 4)) == [i * i for i in range(50)]
