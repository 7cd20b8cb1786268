"""The published tensors of feature networks, and a digest of them that is the same in any container."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from ganctl.errors import WeightsError
from ganctl.io.bundle import Bundle
from ganctl.io.network import UnreachableError
from ganctl.io.progress import SILENT, Reporter
from ganctl.load import open_bundle


def feature_bundle(name: str, reporter: Reporter = SILENT) -> Bundle:
    """The weights of a feature network. Raises WeightsError when they are not at hand, naming the command."""
    try:
        return open_bundle(name, reporter=reporter)[0]
    except UnreachableError as e:
        hint = f"with a network: ganctl zoo pull {name}"
        raise WeightsError(f"{name} not cached, and its source cannot be reached", e.message, hint) from e


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names, each followed by its tensor's float32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].float().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
