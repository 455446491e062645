"""The authors' checkpoints: one file with the weights, alone or amid the state of a training."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from septet.checkpoints.tensors import PICKLE_SUFFIXES, as_tensors, read_pickled, read_tensors
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# torch.nn.DataParallel puts this before every name.
_PARALLEL = "module."
# In the trainings of CompVis: the network that is trained, and the averages of its weights.
_MODEL = "model."
_EMA = "model_ema."
# Trained along by an option of the authors' that sampling never reads.
_UNUSED = ("logvar",)
# Where the trainings of CompVis and of HiFi-GAN keep the weights.
_NETWORK_KEYS = ("model_state_dict", "state_dict", "generator")


class _Ignored:
    """Stands in for a class that a training's state names, and that no weights depend on."""


# PyTorch Lightning keeps the state of its callbacks under their classes (before 1.5).
_LIGHTNING = "pytorch_lightning.callbacks"
_ALLOWED: tuple[type | tuple[type, str], ...] = (
    Namespace,
    *(
        (_Ignored, f"{_LIGHTNING}.{name}")
        for name in (
            "model_checkpoint.ModelCheckpoint",
            "early_stopping.EarlyStopping",
            "lr_monitor.LearningRateMonitor",
        )
    ),
)


def read_single_file(path: Path, *, use_ema: bool = True) -> dict[str, Tensor]:
    """Read the weights of one network from an authors' file.

    Args:
        path: A safetensors or pickled file with weights by name; or what DDIM's training saves,
            ``[weights, optimizer, epoch, step, averaged weights]``; or PNDM's, the same without
            the last (its averaged weights are a file of their own); or what CompVis' trainings
            save, ``{"state_dict": weights, ...}``, where averaged weights lie under ``model_ema.``;
            or BDDM's, ``{"model_state_dict": weights, ...}``; or HiFi-GAN's,
            ``{"generator": weights}``.
        use_ema: Whether to take the averaged weights where the file has both.

    Returns:
        The weights under the authors' names; those of several networks where the file has them.

    Raises:
        CheckpointError: If the file is damaged, would run code, or holds something else.
    """
    if path.suffix in PICKLE_SUFFIXES:
        content = read_pickled(path, _ALLOWED)
        tensors = as_tensors(_weights_of(content, use_ema, path), path)
    else:
        tensors = read_tensors(path)
    if tensors and all(key.startswith(_PARALLEL) for key in tensors):
        tensors = {key.removeprefix(_PARALLEL): tensor for key, tensor in tensors.items()}
    tensors = _averaged(tensors, use_ema)
    return {key: tensor for key, tensor in tensors.items() if key not in _UNUSED}


def _averaged(tensors: Mapping[str, Tensor], use_ema: bool) -> dict[str, Tensor]:
    """Choose between the weights of CompVis' trainings and their averages.

    An average has the name of its weight without dots, under another prefix.
    """
    result = {key: tensor for key, tensor in tensors.items() if not key.startswith(_EMA)}
    if use_ema and len(result) < len(tensors):
        for key in result:
            average = _EMA + key.removeprefix(_MODEL).replace(".", "")
            if key.startswith(_MODEL) and average in tensors:
                result[key] = tensors[average]
    return result


def _weights_of(value: object, use_ema: bool, path: Path) -> object:
    """Return the weights out of the state of a training, and anything else as it is."""
    if isinstance(value, Mapping):
        nested = (value.get(key) for key in _NETWORK_KEYS)
        return next((weights for weights in nested if isinstance(weights, Mapping)), value)
    if not isinstance(value, list | tuple):
        return value
    if len(value) not in (4, 5) or not isinstance(value[0], Mapping):
        raise CheckpointError(
            f"{path}: expected weights, or [weights, optimizer, epoch, step, averaged weights], "
            f"got a list of {len(value)} entries"
        )
    return value[4] if use_ema and len(value) == 5 else value[0]


def read_training_config(path: Path) -> dict[str, Any]:
    """Read the settings that BDDM's training saves with the weights; empty if there are none.

    Args:
        path: See :func:`read_single_file`.

    Raises:
        CheckpointError: If the file is damaged, or would run code.
    """
    if path.suffix not in PICKLE_SUFFIXES:
        return {}
    content = read_pickled(path, _ALLOWED)
    config = content.get("config") if isinstance(content, Mapping) else None
    return dict(vars(config)) if isinstance(config, Namespace) else {}
