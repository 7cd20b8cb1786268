"""How much of a stranger's file ganctl takes on: every limit in one place, named in messages."""

MAX_PIXELS = 100_000_000
"""Pixels of one image (width x height), read from its header before anything is decoded."""
MAX_IMAGE_BYTES = 512 << 20
"""Bytes of one image file or archive member."""
MAX_FILES = 5_000_000
"""Files one folder or archive may list."""
MAX_FOLDER_DEPTH = 64
"""Folders inside folders that the lister follows."""
MAX_LIST_BYTES = 256 << 20
"""Bytes of a `--from-file` list."""
MAX_RATIO = 200
"""How many times larger than packed a member above 1 MiB may claim to be."""
MAX_IDX_BYTES = 4 << 30
"""Bytes of an unpacked IDX file."""
MAX_WEIGHT_BYTES = 16 << 30
"""Bytes of a foreign weights file, and of all its tensors together."""
MAX_PICKLE_BYTES = 256 << 20
"""Bytes of pickled structure in a weights file (tensors of a zip checkpoint do not count)."""
MAX_PICKLE_STEPS = 2_000_000
"""Opcodes in one pickle."""
MAX_PICKLE_DEPTH = 64
"""Containers inside containers in a pickle."""
MAX_PICKLE_NODES = 2_000_000
"""Values that a walk over a pickle meets, shared parts counted every time."""
