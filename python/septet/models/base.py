"""What all networks share: a configuration, a device, saving and loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from septet.checkpoints import (
    HubOptions,
    conversion,
    file_inside,
    inside,
    locate,
    match_keys,
    read_json,
    read_single_file,
    read_weights,
    weights_name,
    write_json,
    write_tensors,
)
from septet.checkpoints.aliases import MODEL_ALIASES
from septet.checkpoints.hub import model_files
from septet.checkpoints.weights import STEMS
from septet.config import brief
from septet.errors import CheckpointError
from septet.memory import SMALLEST_MAPPED, is_mapped, release
from septet.nn.conv import channels_last_on_cpu, is_plain
from septet.nn.linear import ConditionLinear, packs_tokens
from septet.nn.packing import plan_packing

if TYPE_CHECKING:
    import os

    from torch import Tensor

    from septet.models.config import ModelConfig

ModelT = TypeVar("ModelT", bound="PretrainedModel")

CONFIG_NAME = "config.json"

# Of a larger network, conditions stay in the file.
_LARGE_BYTES = 2_000_000_000


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
    #: The libraries whose names of weights files it is found under; the first is for saving.
    file_styles: ClassVar[Sequence[str]] = ("diffusers",)
    _is_planned = False

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.config = settings.to_dict()

    def __getstate__(self) -> dict[str, Any]:
        """Forget what memory there is for packed weights: a copy asks anew."""
        return {**self.__dict__, "_is_planned": False}

    def _enter(self, sample: Tensor) -> Tensor:
        """Bring an image into the order in which its device computes, before any layer runs."""
        if not self._is_planned and not torch.compiler.is_compiling():
            plan_packing(self)
            self._is_planned = True
        return channels_last_on_cpu(sample)

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
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> ModelT:
        """Load a network saved by septet or by diffusers of any age.

        Args:
            folder: A folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, in
                one piece or in shards with an index; or ``.bin`` instead, or ``diffusion_model.pt``
                as in June 2022, which are read without running any code in them. Or ``org/name``,
                a repository of the Hugging Face hub.
            dtype: Dtype of the weights, None for float32.
            torch_dtype: The older name of ``dtype``.
            variant: Reads ``diffusion_pytorch_model.<variant>.safetensors``, for example "fp16".
            subfolder: The folder inside ``folder`` to read instead.
            use_safetensors: True refuses pickled files, False refuses safetensors files.
            cache_dir: See :class:`septet.checkpoints.HubOptions`, as for the others.
            revision: The same.
            token: The same.
            local_files_only: The same.

        Returns:
            The network on the CPU, in evaluation mode, with no parameter requiring gradients.

        Raises:
            CheckpointError: If a file is missing, damaged or does not suit this class.
            ValueError: If ``dtype`` is not floating, or differs from ``torch_dtype``.
        """
        dtype = one_dtype(dtype, torch_dtype)
        options = HubOptions(cache_dir, revision, token, local_files_only)
        root = locate(folder, options, model_files(subfolder, variant, use_safetensors))
        path = root if subfolder is None else inside(root, subfolder)
        model = cls._on_meta(_read_config(root, subfolder), path / CONFIG_NAME)
        weights, tensors = read_weights(
            path,
            root=root,
            variant=variant,
            use_safetensors=use_safetensors,
            styles=cls.file_styles,
        )
        return model._take(conversion(cls.__name__).keys(tensors, weights), weights, dtype)

    @classmethod
    def from_single_file(
        cls: type[ModelT],
        file: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        use_ema: bool = True,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> ModelT:
        """Load a network from one file of weights, such as a ``.ckpt`` of its authors.

        Args:
            file: A pickled file (read without running any code in it) or a safetensors file: the
                weights by name, or the state of a training with them.
            config: The keys of a ``config.json``, or such a file, or a folder with one. Needed
                for what the shapes of the weights do not tell; what it says goes first.
            use_ema: Whether to take the averaged weights where the file has both.
            dtype: Dtype of the weights, None for float32.
            torch_dtype: The older name of ``dtype``.

        Returns:
            See :meth:`from_pretrained`.

        Raises:
            CheckpointError: If a file is missing, damaged or does not suit this class, or
                ``config`` is needed.
            ValueError: If ``dtype`` is not floating, or differs from ``torch_dtype``.
        """
        dtype = one_dtype(dtype, torch_dtype)
        path = Path(file)
        found = read_single_file(path, use_ema=use_ema)
        return cls.from_weights(found, path, config=config, dtype=dtype)

    @classmethod
    def from_weights(
        cls: type[ModelT],
        found: Mapping[str, torch.Tensor],
        path: Path,
        *,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ModelT:
        """Make a network out of weights that have been read from a single file.

        Args:
            found: The weights as :func:`septet.checkpoints.read_single_file` returns them; those
                of other networks beside are left alone where the authors' names tell them apart.
            path: Where they come from, for error messages.
            config: See :meth:`from_single_file`.
            dtype: Dtype of the weights.

        Returns:
            See :meth:`from_pretrained`.

        Raises:
            CheckpointError: If the weights do not suit this class, or ``config`` is needed.
        """
        known = conversion(cls.__name__)
        tensors = known.keys(found, path)
        settings: dict[str, Any] = {}
        if known.infer is not None and known.is_authors(found):
            settings = known.infer(tensors, path)
        elif config is None:
            raise CheckpointError(f"{path}: config must be given, the weights do not tell enough")
        where = path
        if config is not None:
            given, where = _given_config(config, path)
            settings |= _todays(cls.__name__, given, where)
        return cls._on_meta(settings, where)._take(tensors, path, dtype)

    @classmethod
    def _on_meta(cls: type[ModelT], config: Mapping[str, Any], path: Path) -> ModelT:
        """Make the network that a configuration describes, without memory for its weights."""
        settings = _todays(cls.__name__, config, path)
        try:
            with torch.device("meta"):
                return cls.from_config(settings)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _take(
        self: ModelT, tensors: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype
    ) -> ModelT:
        """Use weights from a file, once they are known to suit, and get ready to sample."""
        tensors = conversion(type(self).__name__).finish(tensors, self.config, path)
        match_keys(self.state_dict(), tensors, path)
        self.load_state_dict(self._own(tensors, dtype), assign=True)
        return self.eval().requires_grad_(False)

    def _own(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Copy weights out of their file, but for those that can stay there: they remain mapped.

        These are the weights that will be packed and, in large networks, those of layers that run
        once for all steps. Copies are aligned for vector loads, which a file does not promise, so
        that products of matrices do not depend on it; packing reads number by number. A copy gives
        the file's pages back at once, so that loading never has everything twice.
        """
        is_large = sum(tensor.nbytes for tensor in tensors.values()) > _LARGE_BYTES
        staying = {
            f"{name}.weight"
            for name, layer in self.named_modules()
            if is_plain(layer)
            or packs_tokens(layer)
            or (is_large and type(layer) is ConditionLinear)
        }
        weights = {}
        for key, tensor in tensors.items():
            mapped = is_mapped(tensor)
            if mapped and key in staying and _can_stay(tensor, dtype):
                # a storage of its own: that of the file would be pickled and copied as a whole
                weights[key] = torch.from_numpy(tensor.detach().numpy())
                continue
            weights[key] = tensor.detach().to(
                dtype, copy=True, memory_format=torch.contiguous_format
            )
            if mapped:
                release(tensor)
        return weights

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
        stem = STEMS[self.file_styles[0]][".safetensors"]
        write_tensors(path / weights_name(variant, stem=stem), self.state_dict())
        write_json(path / CONFIG_NAME, {"_class_name": type(self).__name__, **self.config})


def _can_stay(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether a mapped tensor can serve as it is; only float32 is ever packed."""
    is_large = tensor.nbytes >= SMALLEST_MAPPED
    return is_large and tensor.dtype == dtype == torch.float32 and tensor.is_contiguous()


def _read_config(root: Path, subfolder: str | None) -> dict[str, Any]:
    return read_json(file_inside(root, subfolder, CONFIG_NAME))


def _given_config(
    config: Mapping[str, Any] | str | os.PathLike[str], path: Path
) -> tuple[Mapping[str, Any], Path]:
    """Return a configuration given as such, as a file or as a folder, and what to blame for it."""
    if isinstance(config, Mapping):
        return config, path
    where = Path(config)
    if where.is_dir():
        return _read_config(where, None), where / CONFIG_NAME
    return read_json(where), where


def _todays(class_name: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Check whose configuration it is and translate its keys to today's.

    Raises:
        CheckpointError: If it describes another class, or a value makes no sense.
    """
    named = config.get("_class_name", class_name)
    today = MODEL_ALIASES.get(named, named) if isinstance(named, str) else None
    if today != class_name:
        raise CheckpointError(f"{path}: describes a {brief(named)}, expected {class_name!r}")
    try:
        settings = conversion(class_name).config(config)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def one_dtype(dtype: torch.dtype | None, torch_dtype: torch.dtype | None) -> torch.dtype:
    """Choose between the two spellings of the same argument; float32 if neither is given.

    Raises:
        ValueError: If they differ, or are not a floating type.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ValueError(f"dtype and torch_dtype must agree, got {dtype} and {torch_dtype}")
    chosen = dtype or torch_dtype or torch.float32
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {chosen!r}")
    return chosen
