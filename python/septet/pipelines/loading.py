"""Making the components of a pipeline out of the files of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import torch

from septet.checkpoints import CheckpointFolder, Component, file_inside, read_json
from septet.checkpoints.folder import (
    PIPELINE_CLASSES,
    SCHEDULER_CLASSES,
    TOKENIZER_CLASSES,
    TRANSFORMERS_CLASSES,
)
from septet.errors import CheckpointError
from septet.models import UNet2DModel
from septet.pipelines.registry import find_class
from septet.schedulers import DDPMScheduler

if TYPE_CHECKING:
    import os

#: A type for all networks, or one for each by component name; "default" is for the rest.
Dtypes = Union[torch.dtype, Mapping[str, torch.dtype], None]

_SCHEDULER_CONFIG = "scheduler_config.json"
#: Samples up to this size: the DDPM and DDIM authors trained CIFAR-10 (32) and CelebA (64) with
#: the larger variance, everything at 256 with the smaller one.
_LARGE_VARIANCE_SIZE = 64


def dtype_by_component(
    names: Sequence[str], dtype: Dtypes, torch_dtype: Dtypes
) -> dict[str, torch.dtype | None]:
    """Return the type that each component is to have.

    Args:
        names: The component names.
        dtype: See :data:`Dtypes`.
        torch_dtype: The older name of the same argument.

    Raises:
        ValueError: If the two differ, or a component is unknown.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ValueError(f"dtype and torch_dtype must agree, got {dtype} and {torch_dtype}")
    chosen = torch_dtype if dtype is None else dtype
    if not isinstance(chosen, Mapping):
        return dict.fromkeys(names, chosen)
    unknown = sorted(str(name) for name in chosen.keys() - {*names, "default"})
    if unknown:
        raise ValueError(
            f"dtype has an entry for {unknown[0]!r}; the components are {', '.join(names)}"
        )
    return {name: chosen.get(name, chosen.get("default")) for name in names}


def check_names(given: Mapping[str, Any], names: Sequence[str], owner: str) -> None:
    """Raise ValueError if a keyword argument is none of the components of a pipeline."""
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ValueError(
            f"unknown argument {unknown[0]!r}; {owner} has the components {', '.join(names)}"
        )


def load_component(folder: CheckpointFolder, entry: Component, **options: Any) -> Any:
    """Make a component from its files.

    Args:
        folder: The checkpoint.
        entry: The component.
        **options: For a network, the arguments of its ``from_pretrained``.

    Raises:
        CheckpointError: If a file is missing, damaged or makes no sense.
        ValueError: If an option makes no sense.
    """
    component_class: Any = find_class(entry.class_name)
    if entry.class_name in SCHEDULER_CLASSES:
        return _load_scheduler(component_class, folder, entry)
    if entry.class_name in TRANSFORMERS_CLASSES:
        return _load_transformers(component_class, entry, **options)
    if entry.class_name in PIPELINE_CLASSES:
        # A folder that names itself as its own component would never end.
        if entry.path.resolve() == folder.path.resolve():
            raise CheckpointError(f"{folder.path}: {entry.name!r} must be a folder of its own")
        return component_class.from_pretrained(entry.path, **options)
    if entry.class_name in TOKENIZER_CLASSES:
        options = {}
    return component_class.from_pretrained(folder.path, subfolder=entry.subfolder, **options)


def _load_scheduler(scheduler_class: Any, folder: CheckpointFolder, entry: Component) -> Any:
    path = file_inside(folder.path, entry.subfolder, _SCHEDULER_CONFIG)
    config = read_json(path)
    try:
        return scheduler_class.from_config(config)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _load_transformers(
    part_class: Any,
    entry: Component,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
) -> Any:
    """Load a component of transformers.

    It reads pickled weights with ``weights_only=True``, as we do.
    """
    if "Tokenizer" in entry.class_name:
        return read_transformers(part_class, entry.path)
    part = read_transformers(
        part_class,
        entry.path,
        dtype=dtype or torch.float32,
        variant=variant,
        use_safetensors=use_safetensors,
    )
    return part.eval().requires_grad_(False)


def read_transformers(part_class: Any, path: str | os.PathLike[str], **options: Any) -> Any:
    """Let transformers read a folder: without network, and without code of the folder's.

    Args:
        part_class: A class of transformers.
        path: The folder.
        **options: Further arguments of its ``from_pretrained``.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        return part_class.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # tokenizers raise bare exceptions of their own
        raise CheckpointError(
            f"{path}: transformers cannot read a {part_class.__name__}: {error}"
        ) from error


def unconditional_components(
    file: str | os.PathLike[str],
    given: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | str | os.PathLike[str] | None,
    use_ema: bool,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Make the network and the scheduler of an unconditional pipeline from one authors' file.

    Args:
        file: See :meth:`septet.models.PretrainedModel.from_single_file`, as for the others.
        given: Components to use instead.
        config: The same.
        use_ema: The same.
        dtype: The same.

    Returns:
        The components. The scheduler is what the authors trained with: 1000 steps, linear betas
        from 1e-4 to 0.02, and the variance of their configurations for samples of this size.

    Raises:
        CheckpointError: If the file is damaged or does not suit.
    """
    unet = given.get("unet")
    if unet is None:
        unet = UNet2DModel.from_single_file(file, config=config, use_ema=use_ema, dtype=dtype)
    scheduler = given.get("scheduler")
    if scheduler is None:
        size = unet.config.sample_size
        largest = max(size) if isinstance(size, tuple | list) else size or 0
        small = largest > _LARGE_VARIANCE_SIZE
        scheduler = DDPMScheduler(variance_type="fixed_small" if small else "fixed_large")
    return {"unet": unet, "scheduler": scheduler}
