"""Pictures to score, and `ganctl fid` called in this process where its command line is not the point."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganctl.errors import GanctlError
from ganctl.io.progress import Reporter
from ganctl.workflows.fid import FidRequest, run


def pixels(n: int, seed: int, size: tuple[int, int] = (28, 28), channels: int = 1) -> np.ndarray:
    """Bright strokes on black, uint8 [n, h, w] or [n, h, w, c]: near enough to digits for LeNet to tell them apart."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    made = np.zeros((n, *size))
    for image in made:
        for _ in range(3):
            (a, b), angle, width = rng.uniform(0.2, 0.8, 2), rng.uniform(0, np.pi), rng.uniform(0.03, 0.09)
            far = (x - a) * np.cos(angle) + (y - b) * np.sin(angle)
            image += np.exp(-((far / width) ** 2)) * (np.hypot(x - a, y - b) < 0.35)
    grey = (made.clip(0, 1) * 255).astype(np.uint8)
    return grey if channels == 1 else np.stack([np.roll(grey, 3 * c, 2) for c in range(channels)], -1)


def pictures(folder: Path, array: np.ndarray, suffix: str = "png", first: int = 0) -> Path:
    """The images as files 0000.png, 0001.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(array, first):
        Image.fromarray(image).save(folder / f"{i:04}.{suffix}")
    return folder


@dataclass
class Heard:
    """What a run told its caller."""

    results: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: GanctlError | None = None

    @property
    def stamp(self) -> dict[str, Any]:
        assert self.error is None, self.error
        return self.results[-1]

    @property
    def value(self) -> float:
        return self.stamp[self.stamp["metric"]]


def fid(real: object, fake: object = None, **options: Any) -> Heard:
    """One run on the CPU, by default of `fd-lenet`; an error is kept, not raised."""
    heard = Heard()
    reporter = Reporter(
        result=lambda r: heard.results.append(dict(r)),
        warn=lambda what, why, hint: heard.warnings.append(f"{what} | {why} | {hint}"),
        note=heard.notes.append,
    )
    settings = {"metrics": "fd-lenet", "device": "cpu", "workers": 2, **options}
    try:
        run(FidRequest(real=str(real), fake=None if fake is None else str(fake), **settings), reporter)
    except GanctlError as e:
        heard.error = e
    return heard
