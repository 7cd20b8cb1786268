"""How much of a stranger's file ganctl takes on: every limit in one place, named in messages."""

MAX_PIXELS = 100_000_000
"""Pixels of one image (width x height), read from its header before anything is decoded."""
MAX_IMAGE_BYTES = 512 << 20
"""Bytes of one image file or archive member."""
MAX_STEPS = 1_000_000
"""Blocks (chunks, segments, extensions) that are passed on the way to an image's pixels."""
MAX_SCANS = 500
"""Scans of a progressive JPEG, each of which goes over the whole image."""
MAX_TAG_VALUES = 500_000
"""Numbers in one TIFF tag; a strip or tile takes one."""
MAX_RLE_BYTES = 16 << 20
"""Bytes of a run-length BMP."""
MAX_REQUEST_BYTES = 60_000
"""Bytes of the request kept in an image: JPEG holds at most 64 KiB of EXIF."""
MAX_FILES = 5_000_000
"""Files one folder or archive may list."""
MAX_SHARDS = 100_000
"""Tars that one pattern, or one folder, may stand for."""
MAX_BESIDE_BYTES = 1 << 20
"""Bytes of a file beside an image that tells its class or its caption."""
MAX_CLASSES = 1_000_000
"""Classes that labels may number."""
MAX_FOLDER_DEPTH = 64
"""Folders inside folders that the lister follows."""
MAX_LIST_BYTES = 256 << 20
"""Bytes of a `--from-file` list."""
MAX_NAME_CHARACTERS = 4096
"""Characters of the name of an archive's member."""
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
