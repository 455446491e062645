"""The two stages of a GLIDE run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from septet.nn import at_row
from septet.ops.table import COLUMNS
from septet.pipelines.glide_inputs import KnownPixels
from septet.pipelines.glide_loading import inpaints
from septet.random import Generators, randn_leading

if TYPE_CHECKING:
    from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
    from septet.models.glide_prepared import PreparedGlideUNet
    from septet.sampling import SamplingLoop
    from septet.schedulers import StepTable
    from septet.text import GlideTokenizer


@dataclass(frozen=True, eq=False)
class GlideRun:
    """What both stages of a call share.

    Attributes:
        prompts: The texts, each once.
        rows: ``[B]``, which of them each image shows.
        tokenizer: Turns them into ids.
        generator: Where noise comes from.
        loop: Makes the loop of a stage, as :meth:`DiffusionPipeline._loop` does.
    """

    prompts: Sequence[str]
    rows: Tensor
    tokenizer: GlideTokenizer
    generator: Generators
    loop: Callable[..., SamplingLoop]

    def base(
        self,
        unet: GlideTextToImageUNet,
        table: StepTable,
        *,
        guided: bool,
        known: KnownPixels | None,
    ) -> Tensor:
        """Make small images.

        Args:
            unet: The base network.
            table: The steps, with the guidance scale in them.
            guided: Whether to compute the unconditional output, too.
            known: Pixels to keep, None for none.

        Returns:
            ``[B, C, H, W]``, about in [-1, 1].
        """
        prompts, rows = list(self.prompts), self.rows
        if guided:  # the empty text is encoded once for all rows
            prompts, rows = [*prompts, ""], torch.cat([rows, torch.full_like(rows, len(prompts))])
        tokens, mask = self.tokenizer(prompts, unet.config.text_ctx)

        def prepare(timesteps: Tensor, images: Mapping[str, Tensor]) -> PreparedGlideUNet:
            options: dict[str, Any] = dict(images)
            return unet.prepare(timesteps, tokens, mask, text_rows=rows, guided=guided, **options)

        # The original samples both halves of the guided batch and returns the first.
        return self._sample(unet, prepare, table, temperature=1.0, copies=2, known=known)

    def upscale(
        self,
        unet: GlideSuperResolutionUNet,
        table: StepTable,
        small: Tensor,
        *,
        temperature: float,
        known: KnownPixels | None,
    ) -> Tensor:
        """Enlarge images.

        Args:
            unet: The upsampler.
            table: The steps.
            small: ``[B, C, h, w]``, the images.
            temperature: Factor of the starting noise.
            known: Pixels to keep, None for none.

        Returns:
            ``[B, C, H, W]``, about in [-1, 1].
        """
        # as if the small images had been stored with 8 bits
        low_res = ((small + 1) * 127.5).round() / 127.5 - 1
        options: dict[str, Any] = {}
        if unet.config.xf_width is not None:
            tokens, mask = self.tokenizer(self.prompts, unet.config.text_ctx)
            options = {"tokens": tokens, "mask": mask, "text_rows": self.rows}

        def prepare(timesteps: Tensor, images: Mapping[str, Tensor]) -> PreparedGlideUNet:
            return unet.prepare(timesteps, low_res, **{**options, **images})

        return self._sample(unet, prepare, table, temperature=temperature, copies=1, known=known)

    def _sample(
        self,
        unet: GlideTextToImageUNet | GlideSuperResolutionUNet,
        prepare: Callable[[Tensor, Mapping[str, Tensor]], PreparedGlideUNet],
        table: StepTable,
        *,
        temperature: float,
        copies: int,
        known: KnownPixels | None,
    ) -> Tensor:
        """Run one stage. The sample is float32 whatever the network's type, as in the original."""
        size, device = unet.config.sample_size, unet.device
        shape = (len(self.rows), unet.config.out_channels // 2, size, size)
        images: Mapping[str, Tensor] = {}
        if inpaints(unet):
            images = (known or KnownPixels.none(shape, device)).arguments()
        prepared = prepare(torch.tensor(table.timesteps, device=device), images)
        loop = self.loop(table, self.generator, noise_copies=copies)
        noise = randn_leading(shape, self.generator, device, copies=copies)
        columns = [COLUMNS.index(name) for name in ("x0_sample", "x0_output", "x0_divisor")]
        estimates = table.values[:, columns].to(noise)
        return loop(GlidePredictor(prepared, unet.dtype, known, estimates), noise * temperature)


@dataclass(frozen=True, eq=False)
class GlidePredictor:
    """A prepared network in the type of the sample, and certain about known pixels.

    The original sets known pixels in the estimate of the clean sample. The same comes of the noise
    that leads to that estimate, so the step needs to know nothing of inpainting.

    Attributes:
        prepared: The network.
        dtype: Type of the network.
        known: Pixels to keep, None for none.
        estimates: ``[rows, 3]``, the columns x0_sample, x0_output and x0_divisor of the table.
    """

    prepared: PreparedGlideUNet
    dtype: torch.dtype
    known: KnownPixels | None
    estimates: Tensor

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output, or the pair of conditional and unconditional output."""
        output = self.prepared(sample.to(self.dtype), row)
        if isinstance(output, Tensor):
            return self._finish(sample, output, row)
        conditional, unconditional = output
        return self._finish(sample, conditional, row), self._finish(sample, unconditional, row)

    def _finish(self, sample: Tensor, output: Tensor, row: int | Tensor) -> Tensor:
        output = output.to(sample.dtype)
        if self.known is None:
            return output
        of_sample, of_output, divisor = at_row(self.estimates, row).unbind()
        image = self.known.image.to(sample.dtype) * divisor
        noise = (image - of_sample * sample) / of_output
        predicted, variance = output.chunk(2, dim=1)
        return torch.cat([torch.where(self.known.mask, noise, predicted), variance], dim=1)
