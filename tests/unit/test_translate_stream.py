"""A long folder through `translate`: stages overlap, and what is held does not grow with the number of images."""

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.io.progress import Reporter
from ganctl.workflows import translate as workflow
from ganctl.workflows.pipeline import AHEAD
from ganctl.workflows.translate import TranslateRequest, Work, run

from ..conftest import Tiny

SIDE = 48


def photos(folder: Path, count: int) -> None:
    folder.mkdir()
    base = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for k in range(count):
        base[0, 0] = k % 256
        Image.fromarray(base).save(folder / f"{k:04d}.jpg", quality=80)


@pytest.fixture
def model(tiny: Tiny) -> str:
    return str(tiny("pix2pix", resolution=32, num_downs=4, ngf=2, ndf=2, test_time="stored"))


def test_the_next_is_decoded_and_the_last_written_while_one_is_computed(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    photos(tmp_path / "in", 12)
    stages = {name: getattr(Work, name) for name in ("decode", "translate", "encode")}
    decoded, encoding, go_on = threading.Semaphore(0), threading.Event(), threading.Event()
    computed = 0

    def decode(self: Work, item: workflow.Item) -> workflow.Item:
        done = stages["decode"](self, item)
        decoded.release()
        return done

    def translate(self: Work, images: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal computed
        computed += 1
        if computed == 3:
            # Inside the third computation: the fourth image becomes ready, and an earlier one is being written.
            for _ in range(4):
                assert decoded.acquire(timeout=60)
            assert encoding.wait(60)
            go_on.set()
        return stages["translate"](self, images)

    def encode(self: Work, item: workflow.Item) -> workflow.Item:
        encoding.set()
        assert go_on.wait(60)
        return stages["encode"](self, item)

    for stage in (decode, translate, encode):
        monkeypatch.setattr(Work, stage.__name__, stage)
    request = TranslateRequest(model=model, inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"), device="cpu")
    assert run(request).written == 12 == computed


def test_many_photos_take_the_memory_of_a_dozen(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch):
    photos(tmp_path / "in", 120)
    alive, most, lock = 0, 0, threading.Lock()

    def count(by: int) -> None:
        nonlocal alive, most
        with lock:
            alive += by
            most = max(most, alive)

    def watched(pixels: np.ndarray) -> np.ndarray:
        """Counted until nobody holds it any more."""
        count(1)
        weakref.finalize(pixels, count, -1)
        return pixels

    decode = Work.decode

    def decoded(self: Work, item: workflow.Item) -> workflow.Item:
        done = decode(self, item)
        assert done.pixels is not None and done.data is None
        watched(done.pixels)
        return done

    monkeypatch.setattr(Work, "decode", decoded)
    # The network is not what is measured.
    monkeypatch.setattr(Work, "translate", lambda self, images: [watched(255 - image) for image in images])
    rows: list[object] = []
    request = TranslateRequest(model=model, inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"), device="cpu")
    run(request, Reporter(result=rows.append))
    # Decoded ahead, the one in the middle with what becomes of it, and what waits to be written.
    assert alive == 0 and 2 <= most <= 2 * AHEAD + 8
    assert len(rows) == 120 == len(list((tmp_path / "out").iterdir()))
