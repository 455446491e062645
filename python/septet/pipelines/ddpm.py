"""Images by ancestral sampling (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from septet.pipelines.base import PipelineCallback
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.unconditional import UnconditionalImagePipeline
from septet.random import Generators


class DDPMPipeline(UnconditionalImagePipeline):
    """Makes images with whatever scheduler it holds, usually all 1000 steps of DDPM.

    Args:
        unet: See :class:`UnconditionalImagePipeline`.
        scheduler: A DDPM, DDIM (used with ``eta=0``) or PNDM scheduler.
    """

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int = 1000,
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
            num_inference_steps: 1 to the scheduler's number of training steps.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]) or "pt" (``[B, C, H, W]``).
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: Called after every step as ``callback(pipeline, step_index,
                timestep, tensors)``. It may return a dict with a new "sample" (or "latents"),
                and set ``pipeline._interrupt`` to stop.
            callback_on_step_end_tensor_inputs: What it is shown: "sample" (also called
                "latents"), "model_output", "pred_original_sample".

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
        )
