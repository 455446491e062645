"""What goes into a GLIDE run besides texts: images, and the pixels of them to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from septet.config import brief


@dataclass(frozen=True, eq=False)
class KnownPixels:
    """The part of an image that inpainting keeps.

    Attributes:
        image: ``[B, C, H, W]`` in [-1, 1].
        mask: ``[B, 1, H, W]`` booleans, True where ``image`` is known.
    """

    image: Tensor
    mask: Tensor

    @classmethod
    def at(
        cls, image: Any, mask: Tensor, size: int, batch: int, channels: int, device: torch.device
    ) -> KnownPixels:
        """Bring an image and its mask to the size and batch of a stage.

        Args:
            image: A PIL image, or ``[B or 1, C, H, W]`` in [-1, 1].
            mask: ``[B or 1, 1, h, w]``, see :func:`as_mask`.
            size: Height and width wanted.
            batch: Number of samples.
            channels: Channels of a sample.
            device: Where to.

        Raises:
            ValueError: If the image is none, or has another batch or number of channels.
        """
        pixels = as_image(image, size, channels, "inpaint_image").to(device)
        if pixels.shape[0] not in (1, batch):
            raise ValueError(
                f"inpaint_image must hold one image or one per sample, got {pixels.shape[0]} for "
                f"{batch} samples"
            )
        if mask.shape[0] not in (1, batch):
            raise ValueError(
                f"inpaint_mask must hold one mask or one per sample, got {mask.shape[0]} for "
                f"{batch} samples"
            )
        known = F.interpolate(mask.float(), (size, size), mode="nearest").to(device) > 0.5
        return cls(pixels.expand(batch, -1, -1, -1), known.expand(batch, -1, -1, -1))

    @classmethod
    def none(cls, shape: tuple[int, int, int, int], device: torch.device) -> KnownPixels:
        """Return that nothing is known of samples of a shape."""
        image = torch.zeros(shape, device=device)
        return cls(image, torch.zeros_like(image[:, :1], dtype=torch.bool))

    def arguments(self) -> dict[str, Tensor]:
        """Return the arguments of a network's ``prepare``."""
        return {"inpaint_image": self.image, "inpaint_mask": self.mask.to(self.image.dtype)}


def as_image(image: Any, size: int, channels: int, name: str) -> Tensor:
    """Return an image as ``[B, C, size, size]`` in [-1, 1], resized bicubically if need be.

    Args:
        image: A PIL image (resized by PIL, as the authors do), or such a tensor of another size.
        size: Height and width wanted.
        channels: Channels wanted.
        name: Name of the argument, for the error message.

    Raises:
        ValueError: If it is neither.
    """
    if hasattr(image, "convert") and hasattr(image, "resize"):
        from PIL import Image

        resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float()
        image = pixels / 127.5 - 1
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] != channels:
        got = list(image.shape) if isinstance(image, Tensor) else brief(image)
        raise ValueError(
            f"{name} must be a PIL image or a tensor of shape [B, {channels}, H, W], got {got}"
        )
    if image.shape[2:] == (size, size):
        return image.float()
    return F.interpolate(
        image.float(), (size, size), mode="bicubic", align_corners=False, antialias=True
    )


def as_mask(mask: Any, size: int) -> Tensor:
    """Return a mask of known pixels as booleans ``[B, 1, size, size]``.

    Args:
        mask: A PIL image, white where pixels are known, or ``[B, 1, h, w]``, 1 there.
        size: Height and width of the first stage, whose mask the second one enlarges.

    Raises:
        ValueError: If it is neither.
    """
    if hasattr(mask, "convert") and hasattr(mask, "resize"):
        from PIL import Image

        resized = mask.convert("L").resize((size, size), Image.Resampling.NEAREST)
        mask = torch.from_numpy(np.array(resized))[None, None].float() / 255
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1:
        got = list(mask.shape) if isinstance(mask, Tensor) else brief(mask)
        raise ValueError(
            f"inpaint_mask must be a PIL image or a tensor of shape [B, 1, H, W], got {got}"
        )
    return F.interpolate(mask.float(), (size, size), mode="nearest") > 0.5
