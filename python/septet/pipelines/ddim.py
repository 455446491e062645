"""Images by implicit sampling in few steps (Song et al. 2021)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch

from septet.pipelines.base import PipelineCallback
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.unconditional import UnconditionalImagePipeline
from septet.random import Generators
from septet.schedulers import DDIMScheduler, Scheduler

_logger = logging.getLogger(__name__)


class DDIMPipeline(UnconditionalImagePipeline):
    """Makes images with DDIM; any scheduler is converted to a DDIM scheduler.

    Args:
        unet: See :class:`UnconditionalImagePipeline`.
        scheduler: A DDPM, DDIM or PNDM scheduler.
    """

    scheduler_class: ClassVar[type[Scheduler] | None] = DDIMScheduler

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        eta: float = 0.0,
        num_inference_steps: int = 50,
        use_clipped_model_output: bool | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images.

        Args:
            batch_size: Number of images.
            generator: A ``torch.Generator``, a list of one per image, or
                :class:`septet.PhiloxSeeds`. The same seeds give the same images as diffusers.
            eta: 0 adds no noise on the way, 1 as much as DDPM.
            num_inference_steps: 1 to the scheduler's number of training steps.
            use_clipped_model_output: Whether to derive the noise direction again from the clamped
                estimate of the clean image.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]) or "pt" (``[B, C, H, W]``).
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.

        Returns:
            The images.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        if eta > 1:
            _logger.warning("eta should be between 0 and 1, got %s; images may be worse", eta)
        scheduler = cast("DDIMScheduler", self.scheduler)
        return self._generate(
            functools.partial(scheduler.table, eta, bool(use_clipped_model_output)),
            batch_size=batch_size,
            num_inference_steps=num_inference_steps,
            generator=generator,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
