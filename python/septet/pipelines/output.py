"""What pipelines return, and how a sample in [-1, 1] becomes an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

OUTPUT_TYPES = ("pil", "np", "pt")
#: PIL's mode by number of channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """A dataclass that, as in diffusers, is also a tuple and a dict of its entries."""

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the entries in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def __getitem__(self, key: int | str) -> Any:
        """Return an entry by position or name."""
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        """Unpack as a tuple."""
        return iter(self.to_tuple())


@dataclass(frozen=True)
class ImagePipelineOutput(PipelineOutput):
    """The images of one call; ``output[0]`` and ``output["images"]`` work too.

    Attributes:
        images: For output type "pil" a list of images; for "np" ``[B, H, W, C]`` float32 in
            [0, 1]; for "pt" ``[B, C, H, W]`` in [0, 1], on the pipeline's device and in its type.
    """

    images: Any


def check_output_type(output_type: str, channels: int) -> None:
    """Refuse an output type that is unknown or cannot show so many channels.

    Raises:
        ValueError: The message names the argument.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
    if output_type == "pil" and channels not in _MODES:
        raise ValueError(
            f"output_type 'pil' needs 1, 3 or 4 channels, but the model has {channels}; use 'np' "
            "or 'pt'"
        )


def to_images(sample: Tensor, output_type: str) -> Any:
    """Map a sample from [-1, 1] to images.

    Args:
        sample: ``[B, C, H, W]``; values outside [-1, 1] are clamped.
        output_type: "pil", "np" or "pt", see :class:`ImagePipelineOutput`.
    """
    scaled = (sample / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return scaled
    pixels = scaled.float().cpu().permute(0, 2, 3, 1).numpy()
    return to_pil(pixels) if output_type == "pil" else pixels


def to_pil(pixels: npt.NDArray[np.float32]) -> list[Image]:
    """Make 8-bit images of ``[B, H, W, C]`` values in [0, 1]."""
    from PIL import Image

    levels = (pixels * 255).round().astype(np.uint8)
    if levels.shape[-1] == 1:
        levels = levels.squeeze(-1)
    return [Image.fromarray(level) for level in levels]
