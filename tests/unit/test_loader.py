"""The order of the data: by seed and place alone, over epochs, ranks, micro-batches and restarts."""

import itertools
import threading

import numpy as np
import torch

from ganctl.data import DataConfig, Dataset, loader
from ganctl.data.loader import batches


def numbered(n: int = 10, side: int = 4, pairs: bool = False) -> Dataset:
    """Image k holds k at its left edge and k + 100 elsewhere; its pair holds one more."""
    x = np.broadcast_to((np.arange(n, dtype=np.uint8) + 100)[:, None, None, None], (n, side, side, 1)).copy()
    x[:, :, 0] -= 100
    return Dataset(x, x + 1 if pairs else None, np.arange(n))


def taken(count: int, data: Dataset, cfg: DataConfig | None = None, **options) -> list:
    options = {"size": 4, "resolution": 4, "seed": 3, **options}
    return list(itertools.islice(batches(data, cfg or DataConfig(), **options), count))


def classes(got: list) -> list[int]:
    return torch.cat([b.c for b in got]).tolist()


def together(*parts: torch.Tensor) -> torch.Tensor:
    """The first row of each rank, the second of each …: micro-batches of all ranks are those of one process."""
    return torch.stack(parts, 1).flatten(0, 1)


def test_every_epoch_is_a_permutation_of_its_own():
    order = classes(taken(5, numbered()))
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10)) and order[:10] != order[10:]
    assert order == classes(taken(5, numbered())) and order != classes(taken(5, numbered(), seed=4))
    # Whatever the batch, the order is one; from any place it goes on.
    assert order == classes(taken(10, numbered(), size=2))
    assert order[8:] == classes(taken(3, numbered(), start=8))
    first = taken(1, numbered())[0]
    assert first.x.dtype == torch.uint8 and first.x.shape == (4, 1, 4, 4)
    assert first.x[:, 0, 0, 0].tolist() == first.c.tolist()


def test_fewer_images_than_a_batch_go_round():
    assert sorted(classes(taken(1, numbered(3), size=6))) == [0, 0, 1, 1, 2, 2]


def test_ranks_share_each_batch_and_micro_batches_are_shared_alike():
    whole = taken(2, numbered(), size=8)
    for world in (2, 4):
        shares = [taken(2, numbered(), size=8, rank=r, world=world) for r in range(world)]
        for b, *parts in zip(whole, *shares, strict=True):
            assert torch.equal(together(*(part.c for part in parts)), b.c)
            assert torch.equal(together(*(part.x for part in parts)), b.x)


def test_mirroring_and_cropping_depend_on_the_place_alone_and_treat_pairs_alike():
    cfg = DataConfig(mirror=True, jitter=2)
    data = numbered(side=6, pairs=True)
    got = taken(25, data, cfg)
    x, y = torch.cat([b.x for b in got]), torch.cat([b.y for b in got])
    assert x.shape == (100, 1, 4, 4) and torch.equal(x + 1, y)
    again = taken(3, data, cfg, start=40)
    assert torch.equal(torch.cat([b.x for b in again]), x[40:52])
    ranks = [taken(25, data, cfg, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(torch.cat([together(*(b.x for b in pair)) for pair in zip(*ranks, strict=True)]), x)
    # The marked edge is seen at the left, at the right, and cropped away; never in the middle.
    low = (x[:, 0, 0] < 100).tolist()
    seen = {tuple(row) for row in low}
    assert seen == {(True, False, False, False), (False, False, False, True), (False,) * 4}
    # The data themselves stay as they were.
    assert np.array_equal(data.x, numbered(side=6).x)


def test_half_of_the_images_are_mirrored():
    got = taken(100, numbered(), DataConfig(mirror=True))
    flipped = (torch.cat([b.x for b in got])[:, 0, 0, -1] < 100).float().mean()
    assert 0.42 < float(flipped) < 0.58


def test_unpaired_sides_have_orders_and_augmentations_of_their_own():
    x, y = numbered(6).x, numbered(9).x
    data = Dataset(x, y, unpaired=True)
    got = taken(9, data)
    a, b = (torch.cat([getattr(g, side) for g in got])[:, 0, 0, 0].tolist() for side in "xy")
    assert all(sorted(a[i : i + 6]) == list(range(6)) for i in range(0, 36, 6))
    assert all(sorted(b[i : i + 9]) == list(range(9)) for i in range(0, 36, 9))
    assert len(set(zip(a, b, strict=True))) > 18 and a[:6] != b[:6]
    # From any place the order goes on, and x is what it would be in a set without the other side.
    assert torch.equal(taken(1, data, start=8)[0].y, got[2].y)
    assert torch.equal(taken(1, Dataset(x))[0].x, got[0].x)
    turned = taken(9, Dataset(x, y, unpaired=True), DataConfig(mirror=True))
    left = [torch.cat([getattr(g, side) for g in turned])[:, 0, 0, 0] < 50 for side in "xy"]
    assert all(0 < int(t.sum()) < len(t) for t in left) and not torch.equal(*left)


def test_beside_each_image_comes_one_of_another_class():
    x = numbered(9).x
    data = Dataset(x, None, np.array([0, 0, 0, 0, 0, 0, 1, 2, 2]), ("a", "b", "c"))
    cfg = DataConfig(pairs="classes")
    got = taken(36, data, cfg)
    a, b = (torch.cat([getattr(g, side) for g in got])[:, 0, 0, 0].tolist() for side in "xy")
    c, cy = (torch.cat([getattr(g, side) for g in got]).tolist() for side in ("c", "cy"))
    assert c == [int(data.c[i]) for i in a] and cy == [int(data.c[i]) for i in b]
    assert all(left != right for left, right in zip(c, cy, strict=True))
    assert set(b) == set(range(9)) and len(set(zip(a, b, strict=True))) > 25
    # By the place alone: x is what it would be by itself, and from any place the order goes on; ranks share it.
    assert torch.equal(taken(1, Dataset(x))[0].x, got[0].x)
    again = taken(2, data, cfg, start=40)
    assert torch.equal(torch.cat([g.y for g in again]), torch.cat([g.y for g in got])[40:48])
    halves = [taken(1, data, cfg, rank=r, world=2)[0] for r in (0, 1)]
    assert torch.equal(together(*(h.cy for h in halves)), got[0].cy)
    # Mirrored apart from each other.
    turned = taken(18, data, DataConfig(pairs="classes", mirror=True))
    left = [torch.cat([getattr(g, side) for g in turned])[:, 0, 0, 0] < 50 for side in "xy"]
    assert all(0 < int(t.sum()) < len(t) for t in left) and not torch.equal(*left)


def test_the_next_batches_are_made_while_one_is_trained_on(monkeypatch):
    made, whole = threading.Semaphore(0), loader._batch

    def noted(*args):
        made.release()
        return whole(*args)

    monkeypatch.setattr(loader, "_batch", noted)
    stream = batches(numbered(), DataConfig(), size=4, resolution=4, seed=3)
    first = next(stream)
    # Without asking for more: the first, and AHEAD others. No others are begun.
    assert all(made.acquire(timeout=30) for _ in range(1 + loader.AHEAD)) and not made.acquire(timeout=0.05)
    stream.close()
    monkeypatch.undo()
    assert torch.equal(first.x, taken(1, numbered())[0].x)


def photos() -> Dataset:
    """Three photos of three sizes, in which every pixel tells its photo, row and column."""
    whole = []
    for k, (height, width) in enumerate([(6, 9), (8, 4), (5, 5)]):
        rows, columns = np.mgrid[:height, :width]
        whole.append(np.stack([np.full_like(rows, k), rows, columns], 2).astype(np.uint8))
    return Dataset(np.stack([a[:4, :4] for a in whole]), whole=whole)


def test_random_crops_are_pixels_of_the_photo_and_depend_on_seed_and_place_alone():
    cfg = DataConfig(crop="random", mirror=True)
    x = torch.cat([b.x for b in taken(150, photos(), cfg)]).int()
    assert x.shape == (600, 3, 4, 4)
    seen, turned = set(), 0
    for photo, rows, columns in x:
        # One photo, rows and columns one apart: nothing is resized.
        assert photo.unique().numel() == 1 and (rows.diff(dim=0) == 1).all() and (columns.diff(dim=1).abs() == 1).all()
        seen.add((int(photo[0, 0]), int(rows[0, 0]), int(columns[0].min())))
        turned += bool(columns[0, 0] > columns[0, 1])
    # Every place that a photo has comes up, its edges too.
    assert seen == {(k, top, left) for k, (h, w) in enumerate([(6, 9), (8, 4), (5, 5)])
                    for top in range(h - 3) for left in range(w - 3)}  # fmt: skip
    assert 250 < turned < 350
    later = torch.cat([b.x for b in taken(5, photos(), cfg, start=40)])
    assert torch.equal(later.int(), x[40:60])
    ranks = [taken(5, photos(), cfg, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(torch.cat([together(*(b.x for b in pair)) for pair in zip(*ranks, strict=True)]).int(), x[:20])
    other = torch.cat([b.x for b in taken(5, photos(), cfg, seed=4)])
    assert not torch.equal(other.int(), x[:20])
