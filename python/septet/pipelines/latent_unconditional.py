"""Images by diffusion in the latents of an autoencoder, without text (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from septet.checkpoints import read_single_file
from septet.models.base import one_dtype
from septet.pipelines import compvis
from septet.pipelines.base import PipelineCallback, prepare
from septet.pipelines.image import ImagePipeline
from septet.pipelines.latents import check_latent_output, latents_to_images
from septet.pipelines.loading import check_names
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.unconditional import sample_shape
from septet.random import Generators, check_generator, randn_tensor

if TYPE_CHECKING:
    import os


class LDMPipeline(ImagePipeline):
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

    @classmethod
    def from_single_file(
        cls,
        file: str | os.PathLike[str],
        *,
        use_ema: bool = True,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> LDMPipeline:
        """Load a pipeline from CompVis' ``model.ckpt`` of a model without text.

        Args:
            file: See :meth:`LatentDiffusionPipeline.from_single_file`, as for the next three.
            use_ema: The same.
            dtype: The same.
            torch_dtype: The same.
            **components: Components to use instead of those in the file. By default ``scheduler``
                is the authors' DDIM.

        Raises:
            CheckpointError: If the file is missing, damaged or does not suit.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        kind = one_dtype(dtype, torch_dtype)
        path = Path(file)
        found = read_single_file(path, use_ema=use_ema)
        return cls(
            vqvae=components.get("vqvae") or compvis.compvis_vae(found, path, kind),
            unet=components.get("unet") or compvis.compvis_unet(found, path, kind),
            scheduler=components.get("scheduler") or compvis.compvis_scheduler(found, path),
        )

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
        self.scheduler.set_timesteps(num_inference_steps)
        table = self._table(eta)

        dtype = next(self.unet.parameters()).dtype
        # as diffusers: drawn in float32 whatever the type of the weights
        sample = randn_tensor(shape, generator, self.device, torch.float32).to(dtype)
        sample = sample * self.scheduler.init_noise_sigma
        model = prepare(self.unet, table, self.device)
        sample = self._sample(table, model, sample, generator, callback_on_step_end, names)
        images = latents_to_images(self.vqvae, sample, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)
