"""A name for a model folder's weights: equal for copies of it, and for no other model.

The files are read, not the numbers: the same model converted into other files has another name.
"""

import hashlib
import json
from pathlib import Path

from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.weights import hf_files, native

_HEX = 32  # digits


def of_folder(directory: Path) -> str:
    """32 hexadecimal digits; raises CheckpointError where there is no model.

    What Orbax notes about the folder's creation, such as the time, does not count.
    """
    native.read_description(directory)  # else it is no model folder
    shape = hf_files.read_json(directory / native.CONFIG_NAME)["model"]
    total = hashlib.blake2b(json.dumps(shape, sort_keys=True).encode(), digest_size=_HEX // 2)
    files = native.array_files(directory)
    if not files:
        raise CheckpointError(f"expected weights in {directory}, got none")
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_HEX // 2))
        total.update(f"{path.relative_to(directory)} {content.hexdigest()}\n".encode())
    return total.hexdigest()
