"""The unconditional image network of DDPM, DDIM and PNDM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from septet.models.unet import UNet
from septet.models.unet_2d_config import UNet2DConfig
from septet.nn import (
    DownBlock2D,
    MidBlock2D,
    ResnetOptions,
    UpBlock2D,
    at_row,
)

if TYPE_CHECKING:
    from septet.nn.blocks import Resampling


@dataclass(frozen=True, eq=False)
class UNet2DOutput:
    """What the network returns.

    Attributes:
        sample: ``[B, out_channels, H, W]``, for DDPM the predicted noise.
    """

    sample: Tensor


@dataclass(frozen=True, eq=False)
class PreparedUNet2D:
    """A network together with everything about its timesteps that does not need the sample.

    Attributes:
        model: The network.
        times: ``[num_steps, B or 1, channels]``, the projected time embeddings of all residual
            blocks side by side, one row per timestep.
    """

    model: UNet2DModel
    times: Tensor

    def __len__(self) -> int:
        """Return the number of timesteps prepared."""
        return self.times.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor:
        """Run the network at one of the prepared timesteps.

        Args:
            sample: ``[B, in_channels, H, W]``.
            row: Index of the timestep. A tensor with one integer, on the network's device, is
                read there without a host synchronisation.

        Returns:
            ``[B, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or the class labels.
        """
        times = at_row(self.times, row)
        return self.model.denoise(sample, times)


class UNet2DModel(UNet[UNet2DConfig]):
    """A UNet that maps a noisy image and its timestep to, usually, the noise in it.

    Source: DDPM (Ho et al. 2020); keys and configuration as in diffusers' ``UNet2DModel``.

    Args:
        **config: The keys of :class:`UNet2DConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[UNet2DConfig]] = UNet2DConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(UNet2DConfig.from_dict(config))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: ``[B, in_channels, H, W]``; H and W are multiples of two to the power of the
                number of levels less one.
            timestep: A number, a 0-d tensor, or ``[1]`` or ``[B]``: one per sample.
            class_labels: ``[B]`` for a class-conditional network (``[B, width]`` with class
                embedding type "identity"), else None.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The output, or a tuple with the sample alone.

        Raises:
            ValueError: If a shape is wrong, or class labels are missing or not expected.
        """
        output = self.denoise(sample, self._time_of_call(sample, timestep, class_labels))
        return UNet2DOutput(output) if return_dict else (output,)

    def prepare(self, timesteps: Tensor, class_labels: Tensor | None = None) -> PreparedUNet2D:
        """Compute for many timesteps at once whatever does not depend on the sample.

        That is the sinusoidal embedding, the time (and class) network, and its projection in
        every residual block. Nothing is approximated.

        Args:
            timesteps: ``[num_steps]``.
            class_labels: As in :meth:`forward`, the same for all steps.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``timesteps[row]``.

        Raises:
            ValueError: If a shape is wrong, or class labels are missing or not expected.
        """
        return PreparedUNet2D(self, self._times_of_steps(timesteps, class_labels))

    def denoise(self, sample: Tensor, times: Tensor) -> Tensor:
        """Run the network with the projected time embeddings given.

        Args:
            sample: As in :meth:`forward`.
            times: ``[B or 1, channels]``, one row of what :meth:`prepare` computes.

        Returns:
            ``[B, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or ``times``.
        """
        self._check_sample(sample, times)
        return self._run(sample, times)

    def _down_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        settings = self._settings
        blocks = nn.ModuleList()
        widths = settings.block_out_channels
        for level, block_type in enumerate(settings.down_block_types):
            attends = block_type == "AttnDownBlock2D"
            is_last = level == settings.num_levels - 1
            # Only blocks with attention read the configuration here, as in diffusers.
            kind = cast("Resampling", (attends and settings.downsample_type) or "conv")
            block = DownBlock2D(
                widths[max(level - 1, 0)],
                widths[level],
                options,
                num_layers=settings.layers_per_block,
                head_dim=settings.head_dim(level) if attends else None,
                downsample=None if is_last else kind,
                downsample_padding=settings.downsample_padding,
            )
            blocks.append(block)
        return blocks

    def _mid_block(self, options: ResnetOptions) -> MidBlock2D | None:
        settings = self._settings
        if settings.mid_block_type is None:
            return None
        return MidBlock2D(
            settings.block_out_channels[-1],
            replace(options, output_scale_factor=settings.mid_block_scale_factor),
            head_dim=settings.head_dim(settings.num_levels - 1) if settings.add_attention else None,
            attention_groups=settings.mid_attention_groups,
        )

    def _up_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        settings = self._settings
        blocks = nn.ModuleList()
        widths = settings.block_out_channels
        levels = range(settings.num_levels - 1, -1, -1)
        for level, block_type in zip(levels, settings.up_block_types, strict=True):
            attends = block_type == "AttnUpBlock2D"
            kind = cast("Resampling", (attends and settings.upsample_type) or "conv")
            block = UpBlock2D(
                widths[max(level - 1, 0)],
                widths[min(level + 1, settings.num_levels - 1)],
                widths[level],
                options,
                num_layers=settings.layers_per_block + 1,
                head_dim=settings.head_dim(level) if attends else None,
                upsample=None if level == 0 else kind,
            )
            blocks.append(block)
        return blocks
