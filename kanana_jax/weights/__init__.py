"""A model's weights in files, without optimizer state: model folders and Hugging Face folders.

`native` defines the model folder that training starts from and `generate` loads. `hf` converts it
from and to Hugging Face folders, `run_folder` makes one from a training run, and `merge` makes one
from several models. `source` reads either kind one layer at a time. Anything unusable raises
`kanana_jax.checkpoint.CheckpointError`.
"""

from kanana_jax.weights.hf import export_directory, import_directory
from kanana_jax.weights.merge import merge_folders, merge_run
from kanana_jax.weights.native import Description, abstract, read_description, restore
from kanana_jax.weights.run_folder import import_run
from kanana_jax.weights.source import Source, open_source

__all__ = [
    "Description",
    "Source",
    "abstract",
    "export_directory",
    "import_directory",
    "import_run",
    "merge_folders",
    "merge_run",
    "open_source",
    "read_description",
    "restore",
]
