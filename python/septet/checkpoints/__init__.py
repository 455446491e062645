"""Reading and writing checkpoints: files that may come from anyone, folders of several layouts."""

from septet.checkpoints.conversions import Conversion, conversion
from septet.checkpoints.files import read_json, write_json
from septet.checkpoints.folder import CheckpointFolder, Component, write_index
from septet.checkpoints.hub import HubOptions, locate
from septet.checkpoints.keys import match_keys, modern_keys
from septet.checkpoints.paths import file_inside, inside
from septet.checkpoints.single_file import read_single_file, read_training_config
from septet.checkpoints.tensors import read_tensors, write_tensors
from septet.checkpoints.weights import find_weights, read_weights, weights_name

__all__ = [
    "CheckpointFolder",
    "Component",
    "Conversion",
    "HubOptions",
    "conversion",
    "file_inside",
    "find_weights",
    "inside",
    "locate",
    "match_keys",
    "modern_keys",
    "read_json",
    "read_single_file",
    "read_tensors",
    "read_training_config",
    "read_weights",
    "weights_name",
    "write_index",
    "write_json",
    "write_tensors",
]
