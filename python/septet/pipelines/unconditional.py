"""The run that DDPM, DDIM and PNDM share: noise in, images out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from septet.config import positive_integer
from septet.models.base import one_dtype
from septet.pipelines.base import PipelineCallback, prepare
from septet.pipelines.image import ImagePipeline, sample_size
from septet.pipelines.loading import check_names, unconditional_components
from septet.pipelines.output import ImagePipelineOutput, check_output_type, to_images
from septet.random import Generators, check_generator, randn_tensor
from septet.schedulers import StepTable

if TYPE_CHECKING:
    import os

PipelineT = TypeVar("PipelineT", bound="UnconditionalImagePipeline")


class UnconditionalImagePipeline(ImagePipeline):
    """A UNet and a scheduler that make images out of noise alone.

    Args:
        unet: A ``UNet2DModel`` of septet or diffusers, or anything like it: ``unet(sample,
            timestep).sample``, with ``sample_size`` and ``in_channels`` in ``unet.config``.
        scheduler: A scheduler of septet or diffusers; one of another kind than the pipeline
            wants is converted through its configuration.

    Raises:
        ValueError: If the scheduler is of an unknown kind.
    """

    component_names: ClassVar[tuple[str, ...]] = ("unet", "scheduler")

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler

    @classmethod
    def from_single_file(
        cls: type[PipelineT],
        file: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        use_ema: bool = True,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> PipelineT:
        """Load a pipeline from one file of weights, such as a ``.ckpt`` of the authors.

        Args:
            file: See :meth:`septet.UNet2DModel.from_single_file`, as for the next four.
            config: The same.
            use_ema: The same.
            dtype: The same.
            torch_dtype: The same.
            **components: Components to use instead, usually ``scheduler``. By default that is the
                authors': 1000 steps, linear betas from 1e-4 to 0.02, variance "fixed_large" for
                samples up to 64 pixels, else "fixed_small".

        Raises:
            CheckpointError: If the file is missing, damaged or does not suit.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        made = unconditional_components(
            file,
            components,
            config=config,
            use_ema=use_ema,
            dtype=one_dtype(dtype, torch_dtype),
        )
        return cls(**made)

    def _generate(
        self,
        make_table: Callable[[], StepTable],
        *,
        batch_size: int,
        num_inference_steps: int,
        generator: Generators,
        output_type: str,
        return_dict: bool,
        callback_on_step_end: PipelineCallback | None,
        callback_on_step_end_tensor_inputs: Sequence[str],
        noise_dtype: torch.dtype | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Check the arguments, then run; ``make_table`` is called once the timesteps are set."""
        shape = sample_shape(self.unet.config, batch_size)
        device, dtype = self.device, self.dtype
        check_output_type(output_type, shape[1])
        check_generator(generator, shape[0], device)
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.scheduler.set_timesteps(num_inference_steps)
        table = make_table()

        noise = randn_tensor(shape, generator, device, noise_dtype or dtype).to(dtype)
        sample = self._sample(
            table,
            prepare(self.unet, table, device),
            noise * self.scheduler.init_noise_sigma,
            generator,
            callback_on_step_end,
            names,
        )
        images = to_images(sample, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)


def sample_shape(config: Any, batch_size: int) -> tuple[int, int, int, int]:
    """Return the shape ``(B, C, H, W)`` of what a network with this configuration denoises.

    Raises:
        ValueError: If the batch size is no positive integer, or the network has no image size.
    """
    batch = positive_integer("batch_size", batch_size)
    height, width = sample_size(config)
    if height is None or width is None:
        raise ValueError("unet.config.sample_size must be set, to know how large images are")
    return batch, config.in_channels, height, width
