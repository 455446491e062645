"""Reading and writing checkpoints: files that may come from anyone, folders of several layouts."""

from septet.checkpoints.files import read_json, read_tensors, write_json, write_tensors
from septet.checkpoints.folder import CheckpointFolder, Component, write_index
from septet.checkpoints.keys import match_keys, modern_keys

__all__ = [
    "CheckpointFolder",
    "Component",
    "match_keys",
    "modern_keys",
    "read_json",
    "read_tensors",
    "write_index",
    "write_json",
    "write_tensors",
]
