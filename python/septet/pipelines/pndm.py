"""Images by pseudo numerical methods (Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from septet.pipelines.base import PipelineCallback
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.unconditional import UnconditionalImagePipeline
from septet.random import Generators
from septet.schedulers import PNDMScheduler, Scheduler


class PNDMPipeline(UnconditionalImagePipeline):
    """Makes images with PNDM; any scheduler is converted to a PNDM scheduler.

    Args:
        unet: See :class:`UnconditionalImagePipeline`.
        scheduler: A DDPM, DDIM or PNDM scheduler.
    """

    scheduler_class: ClassVar[type[Scheduler] | None] = PNDMScheduler

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images.

        Args:
            batch_size: Number of images.
            num_inference_steps: 1 to the scheduler's number of training steps, at least 4 unless
                the scheduler skips the Runge-Kutta steps. The network is called 9 times more
                often with those, once more without.
            generator: A ``torch.Generator``, a list of one per image, or
                :class:`septet.PhiloxSeeds`. The same seeds give the same images as diffusers.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]) or "pt" (``[B, C, H, W]``).
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`; called once per evaluation.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.

        Returns:
            The images.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        return self._generate(
            self.scheduler.table,
            batch_size=batch_size,
            num_inference_steps=num_inference_steps,
            generator=generator,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            # diffusers draws float32 noise here whatever the network's type
            noise_dtype=torch.float32,
        )
