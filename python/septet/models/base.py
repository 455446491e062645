"""What all networks share: a configuration, a device, saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from septet.checkpoints.files import (
    find_weights,
    read_json,
    read_tensors,
    weights_name,
    write_json,
    write_tensors,
)
from septet.checkpoints.folder import inside
from septet.checkpoints.keys import match_keys, modern_keys
from septet.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from septet.models.config import ModelConfig

ModelT = TypeVar("ModelT", bound="PretrainedModel")

CONFIG_NAME = "config.json"


class PretrainedModel(nn.Module):
    """A network with a complete configuration that can be saved and loaded.

    A subclass names its configuration class, takes the keys of that as keyword arguments and
    allocates nothing before they are checked.

    Args:
        settings: The checked configuration.

    Attributes:
        config: All configuration keys with their values, read-only; entries are attributes too.
    """

    config_class: ClassVar[type[ModelConfig]]

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.config = settings.to_dict()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    @classmethod
    def from_config(cls: type[ModelT], config: Mapping[str, Any]) -> ModelT:
        """Make a network with random weights.

        Args:
            config: The keys of a ``config.json``; those that start with ``_`` are ignored.

        Raises:
            ValueError: If a key is unknown or a value makes no sense.
        """
        return cls(**{key: value for key, value in config.items() if not key.startswith("_")})

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        subfolder: str | None = None,
        use_safetensors: bool | None = None,
    ) -> ModelT:
        """Load a network saved by septet or diffusers.

        Args:
            folder: A folder with ``config.json`` and ``diffusion_pytorch_model.safetensors`` (or
                ``.bin``, which is read without running any code in it).
            dtype: Dtype of the weights, None for float32.
            torch_dtype: The older name of ``dtype``.
            variant: Reads ``diffusion_pytorch_model.<variant>.safetensors``, for example "fp16".
            subfolder: The folder inside ``folder`` to read instead.
            use_safetensors: True refuses ``.bin`` files, False refuses safetensors files.

        Returns:
            The network on the CPU, in evaluation mode, with no parameter requiring gradients.

        Raises:
            CheckpointError: If a file is missing, damaged or does not suit this class.
            ValueError: If ``dtype`` is not floating, or differs from ``torch_dtype``.
        """
        dtype = _one_dtype(dtype, torch_dtype)
        path = Path(folder) if subfolder is None else inside(Path(folder), subfolder)
        model = cls._on_meta(path / CONFIG_NAME)
        weights = find_weights(path, variant=variant, use_safetensors=use_safetensors)
        tensors = modern_keys(read_tensors(weights), weights)
        match_keys(model.state_dict(), tensors, weights)
        # Copied in any case: then the weights are aligned for vector loads, which a file does not
        # promise, and no longer depend on the file.
        tensors = {key: tensor.to(dtype, copy=True) for key, tensor in tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    @classmethod
    def _on_meta(cls: type[ModelT], path: Path) -> ModelT:
        """Make the network that a configuration file describes, without memory for its weights."""
        config = read_json(path)
        class_name = config.get("_class_name", cls.__name__)
        if class_name != cls.__name__:
            raise CheckpointError(f"{path}: describes a {class_name!r}, expected {cls.__name__!r}")
        try:
            with torch.device("meta"):
                return cls.from_config(config)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, variant: str | None = None
    ) -> None:
        """Save configuration and weights in the layout that diffusers reads.

        Each file appears complete or not at all.

        Args:
            folder: Made if it does not exist; files of the same names are replaced.
            variant: Goes into the name of the weights file, see :meth:`from_pretrained`.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / weights_name(variant), self.state_dict())
        write_json(path / CONFIG_NAME, {"_class_name": type(self).__name__, **self.config})


def _one_dtype(dtype: torch.dtype | None, torch_dtype: torch.dtype | None) -> torch.dtype:
    """Choose between the two spellings of the same argument."""
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ValueError(f"dtype and torch_dtype must agree, got {dtype} and {torch_dtype}")
    chosen = dtype or torch_dtype or torch.float32
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {chosen!r}")
    return chosen
