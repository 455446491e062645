"""Images by diffusion in the latents of an autoencoder, without text (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from septet.pipelines.base import DiffusionPipeline, PipelineCallback, as_scheduler, prepare
from septet.pipelines.latents import LATENT, check_latent_output, decode_latents
from septet.pipelines.output import ImagePipelineOutput, to_images
from septet.pipelines.unconditional import sample_shape
from septet.random import Generators, check_generator, randn_tensor
from septet.schedulers import DDIMScheduler, Scheduler


class LDMPipeline(DiffusionPipeline):
    """Makes images without a condition, such as faces with ``CompVis/ldm-celebahq-256``.

    Args:
        vqvae: A ``VQModel`` or ``AutoencoderKL``.
        unet: A :class:`septet.UNet2DModel`, or one of diffusers, on the latents.
        scheduler: A DDPM, DDIM or PNDM scheduler of septet or diffusers.

    Raises:
        ValueError: If the scheduler is of an unknown kind.
    """

    component_names: ClassVar[tuple[str, ...]] = ("vqvae", "unet", "scheduler")
    component_aliases: ClassVar[Mapping[str, str]] = {"vae": "vqvae"}

    def __init__(self, vqvae: Any, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.vqvae = vqvae
        self.unet = unet
        self.scheduler = scheduler

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler; one of diffusers is converted when it is assigned."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self._scheduler = as_scheduler(scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        eta: float = 0.0,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images.

        Args:
            batch_size: Number of images.
            generator: A ``torch.Generator``, a list of one per image, or
                :class:`septet.PhiloxSeeds`; it draws the noise of ``eta`` too.
            eta: Noise of DDIM, 0 to 1. Other schedulers do not look at it.
            num_inference_steps: 1 to the scheduler's number of training steps.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]), "pt" (``[B, C, H, W]``) or
                "latent", which leaves out the decoder.
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.

        Returns:
            The images.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        shape = sample_shape(self.unet.config, batch_size)
        check_latent_output(output_type, self.vqvae)
        check_generator(generator, shape[0], self.device)
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        table = scheduler.table(eta) if isinstance(scheduler, DDIMScheduler) else scheduler.table()

        dtype = next(self.unet.parameters()).dtype
        # as diffusers: drawn in float32 whatever the type of the weights
        sample = randn_tensor(shape, generator, self.device, torch.float32).to(dtype)
        sample = sample * scheduler.init_noise_sigma
        model = prepare(self.unet, table, self.device)
        sample = self._sample(table, model, sample, generator, callback_on_step_end, names)
        if output_type == LATENT:
            images: Any = sample
        else:
            images = to_images(decode_latents(self.vqvae, sample), output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)
