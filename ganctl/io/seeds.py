"""`--seeds 0-35,85`: a list of integers, checked and counted before anything is built."""

import hashlib
import re
from collections.abc import Sequence

from ganctl.errors import UsageError, quoted

MAX_SEEDS = 1_000_000
MAX_TEXT = 2000
MAX_SEED = 2**32 - 1  # numpy's RandomState, which the StyleGAN seed contract uses, takes no larger one.


def parse_seeds(text: str, *, option: str = "--seeds") -> list[int]:
    """The seeds of a list such as '0-35,85', in the order given; ranges include both ends.

    Each is 0 … 4294967295 and there are at most 1,000,000. Raises UsageError naming the part that is wrong.
    """
    hint = f"write it as {option} 0-35,85"
    cannot = f"cannot use {option} {quoted(_short(text))}"
    if not text.strip():
        raise UsageError(cannot, "the list is empty", hint)
    ranges: list[range] = []
    total = 0
    for part in text.split(","):
        # [0-9] and not \d: other scripts' digits are more likely a paste error than a seed.
        match = re.fullmatch(r"\s*([0-9]{1,20})\s*(?:-\s*([0-9]{1,20})\s*)?", part)
        if not match:
            raise UsageError(cannot, f"{quoted(_short(part))} is neither a seed nor a range a-b", hint)
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise UsageError(cannot, f"the range {first}-{last} runs backwards", f"did you mean {last}-{first}?")
        if last > MAX_SEED:
            raise UsageError(cannot, f"{last} is larger than {MAX_SEED}, the largest seed", hint)
        total += last - first + 1
        if total > MAX_SEEDS:
            raise UsageError(cannot, f"it names more than {MAX_SEEDS:,} seeds", "split it over several runs")
        ranges.append(range(first, last + 1))
    return [seed for part in ranges for seed in part]


def seed_class(seed: int, classes: int) -> int:
    """The class, 0 … classes - 1, of a seed's picture where none was asked for. Independent of the seed's z."""
    import numpy as np

    return int(np.random.RandomState([seed, 1]).randint(classes))


def seed_text(seeds: Sequence[int]) -> str:
    """The inverse of `parse_seeds`, [0, 1, 2, 85] → '0-2,85'; a digest where that is too long for a file's request."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return text if len(text) <= MAX_TEXT else "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
