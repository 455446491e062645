"""Names of weights in the UNets of CompVis, which are those of OpenAI's, as tables.

diffusers 0.0.x had the same names in its ``UNetLDMModel``. Source: latent diffusion (Rombach et
al. 2022) and the network it was made from (Dhariwal & Nichol 2021).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from septet.checkpoints.keys import part, renamed
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

#: Where the UNet lies in the file of a whole latent diffusion.
UNET_PREFIX = "model.diffusion_model."

# Layers that have the same place in every network.
_PLACES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
# What a layer is called within its residual block.
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_LAYER = re.compile(
    r"(?P<place>(?:input|output)_blocks\.\d+\.\d+|(?:middle_block|time_embed|out)\.\d+|label_emb)"
    r"\.(?P<rest>.+)"
)
_MAX_BLOCKS = 512


def is_compvis_unet(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights, alone or in a whole latent diffusion, have CompVis' names."""
    first = "time_embed.0.weight"
    return first in tensors or UNET_PREFIX + first in tensors


def compvis_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of a UNet from CompVis' names to today's.

    Names within attention layers stay: spatial transformers have kept theirs.

    Args:
        tensors: Weights by name, of the UNet alone or of a whole latent diffusion.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If two weights end up under the same name, or the network resizes with
            residual blocks.
    """
    own = part(tensors, UNET_PREFIX)
    places = {**_PLACES, **dict(_input_places(own)), **dict(_output_places(own, path))}

    def rename(key: str) -> str:
        match = _LAYER.fullmatch(key)
        place = places.get(match["place"]) if match else None
        if match is None or place is None:
            return key
        rest = match["rest"]
        if ".resnets." in place:
            layer, _, leaf = rest.rpartition(".")
            rest = f"{_RESNET.get(layer, layer)}.{leaf}"
        elif ".downsamplers." in place:
            rest = f"conv.{rest.partition('.')[2]}"
        return f"{place}.{rest}"

    return renamed(own, rename, path)


def _input_places(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Go through the places of the way down: a level ends with the layer that halves."""
    level = layer = 0
    for index in range(1, _MAX_BLOCKS):
        block = f"input_blocks.{index}"
        # diffusers of July 2022 called it "conv".
        if f"{block}.0.op.weight" in tensors or f"{block}.0.conv.weight" in tensors:
            yield f"{block}.0", f"down_blocks.{level}.downsamplers.0"
            level, layer = level + 1, 0
            continue
        yield f"{block}.0", f"down_blocks.{level}.resnets.{layer}"
        yield f"{block}.1", f"down_blocks.{level}.attentions.{layer}"
        layer += 1


def _output_places(tensors: Mapping[str, Tensor], path: Path) -> Iterator[tuple[str, str]]:
    """Go through the places of the way up: a level ends with the block that doubles."""
    level = layer = 0
    for index in range(_MAX_BLOCKS):
        block = f"output_blocks.{index}"
        if any(f"{block}.{place}.in_layers.0.weight" in tensors for place in (1, 2)):
            raise CheckpointError(
                f"{path}: {block} resizes with a residual block, which is not supported"
            )
        yield f"{block}.0", f"up_blocks.{level}.resnets.{layer}"
        yield f"{block}.1", f"up_blocks.{level}.attentions.{layer}"
        layer += 1
        for place in (1, 2):
            if f"{block}.{place}.conv.weight" in tensors:
                yield f"{block}.{place}", f"up_blocks.{level}.upsamplers.0"
                level, layer = level + 1, 0
