"""Published networks that no family here is, told by the names of files and tensors, so that a refusal names them."""

import re
from collections.abc import Iterable

TENSORFLOW = re.compile(r"checkpoint|.+\.(index|meta|data-\d{5}-of-\d{5})")
"""Names of the parts of a TensorFlow 1 checkpoint."""
KEYS = (
    (r"(module\.)?(h|img)_net\d\.", "a StackGAN++ or AttnGAN, which draw from sentences"),
    (r"(module\.)?(STAGE1_G|ca_net)\.", "a StackGAN, which draws from sentences"),
    (r"encoder\.input_layer\.", "an encoder of e4e or pSp, which invert StyleGAN2"),
    (r"model\.\d{1,3}\.conv_block\.\d\.conv\.\d\.weight", "a network of GAN Compression's separable convolutions"),
)
"""What a tensor's name begins with, and whose it then is; the first that fits counts."""


def named(keys: Iterable[str]) -> str:
    """Of which published network the tensors are, as the end of 'it is …'; empty where nobody knows."""
    names = list(keys)
    return next((what for pattern, what in KEYS if any(re.match(pattern, k) for k in names)), "")
