"""The animation of the lectures: a generator of points, the data it is to meet, and what D thinks of the plane."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.io.images import from_pixels, read_image, write_image
from ganctl.io.video import write_gif

if TYPE_CHECKING:
    import numpy as np

    from ganctl.data import Dataset

SIDE, CELLS = 320, 64
"""Of a frame in pixels, and of the lattice on which D is asked."""
LEVELS = 10
"""Of D's answer, so that their edges are level sets."""
SHOWN = 1000
"""Points of either kind in a frame."""
FRAMES, FPS = 120, 8.0
DARK, LIGHT = (84, 92, 112), (255, 255, 255)
"""Of the plane where D's answer is lowest and where it is highest."""
REAL, MADE = (37, 99, 235), (234, 88, 12)
"""Blue and orange."""


def points_of(net: Any, count: int, device: Any) -> "np.ndarray":
    """The points [count, 2] of a generator's first seeds."""
    from ganctl.nn.drawing import of_seeds
    from ganctl.nn.precision import inference

    with inference(device):
        return of_seeds(net, range(count), device).flatten(1).float().cpu().numpy()


def real_points(data: "Dataset") -> "np.ndarray":
    """The first of the data, [n, 2]."""
    return from_pixels(data.x[:SHOWN], (-1.0, 1.0)).flatten(1).numpy()


def frame(net: Any, D: Any, data: "Dataset", path: Path, device: Any) -> None:
    """One picture: D's answer all over [-1, 1]² from its lowest (dark) to its highest (light), real points in blue,
    generated ones in orange."""
    import numpy as np
    import torch

    from ganctl.nn.precision import inference

    at = (torch.arange(CELLS, device=device) + 0.5) / CELLS * 2 - 1
    y, x = torch.meshgrid(-at, at, indexing="ij")
    with inference(device):
        answer = D(torch.stack([x, y], -1).reshape(-1, 2, 1, 1)).reshape(CELLS, CELLS).float().cpu().numpy()
    low, high = answer.min(), answer.max()
    share = (np.rint((answer - low) / max(high - low, 1e-12) * LEVELS) / LEVELS)[..., None]
    field = np.rint(share * LIGHT + (1 - share) * DARK).astype(np.uint8)
    canvas = field.repeat(SIDE // CELLS, 0).repeat(SIDE // CELLS, 1)
    dots(canvas, real_points(data), REAL)
    dots(canvas, points_of(net, SHOWN, device), MADE)
    write_image(path, canvas)


def real_frame(data: "Dataset", path: Path) -> None:
    """The real points alone, on white."""
    import numpy as np

    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    dots(canvas, real_points(data), REAL)
    write_image(path, canvas)


def dots(canvas: "np.ndarray", points: "np.ndarray", colour: tuple[int, int, int]) -> None:
    """Two by two pixels for each point of the plane; upwards is more, as in every diagram."""
    import numpy as np

    at = np.rint((points * [1, -1] + 1) / 2 * (SIDE - 1)).astype(int)
    for u, v in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = np.clip(at + np.array([u, v]), 0, SIDE - 1).T
        canvas[y, x] = colour


def animation(run: Path) -> None:
    """RUN/points.gif of the frames there are, at most 120, spread over the run."""
    from ganctl.workflows.report import thinned

    paths = thinned(sorted((run / "samples").glob("*.png")), FRAMES)
    frames = (read_image(path.read_bytes(), name=str(path)).pixels for path in paths)
    write_gif(run / "points.gif", frames, count=len(paths), fps=FPS)
