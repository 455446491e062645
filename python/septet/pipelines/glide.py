"""Images from text in two stages (GLIDE, Nichol et al. 2021)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from septet.config import check_bool, check_int, check_number
from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.models.base import one_dtype
from septet.pipelines.base import DiffusionPipeline, PipelineCallback
from septet.pipelines.glide_inputs import KnownPixels, as_image, as_mask
from septet.pipelines.glide_loading import (
    authors_components,
    check_networks,
    config_of,
    inpaints,
    low_res_size,
    tell_of_missing_text,
    upsampler_scheduler,
)
from septet.pipelines.glide_stages import GlideRun
from septet.pipelines.loading import check_names
from septet.pipelines.output import ImagePipelineOutput, check_output_type, to_images
from septet.pipelines.prompts import check_prompts
from septet.random import Generators, check_generator
from septet.schedulers import DDIMScheduler, GLIDEScheduler, Scheduler, StepTable
from septet.schedulers.timesteps import Respacing

if TYPE_CHECKING:
    import os

    from septet.checkpoints import CheckpointFolder
    from septet.text import GlideTokenizer

_MAX_IMAGES = 1 << 16
#: With that many steps the upsampler runs at the timesteps the authors chose for it.
_FAST27_STEPS = 27


class GLIDEPipeline(DiffusionPipeline):
    """Makes small images from texts with guidance, then enlarges them.

    Args:
        text_unet: The base network.
        text_scheduler: Its sampler; another one than GLIDE's is converted.
        tokenizer: Turns texts into ids.
        upscale_unet: The upsampler; None for a pipeline that makes small images only.
        upscale_scheduler: Its sampler, GLIDE's or DDIM's; another one is converted to GLIDE's DDIM.
            None means the authors'.

    Attributes:
        stage: "base" or "upscale": what is running, for callbacks.

    Raises:
        ValueError: If a component is of another kind, or does not suit the others.
    """

    component_names: ClassVar[tuple[str, ...]] = (
        "text_unet",
        "text_scheduler",
        "tokenizer",
        "upscale_unet",
        "upscale_scheduler",
    )
    optional_components: ClassVar[frozenset[str]] = frozenset({"upscale_unet", "upscale_scheduler"})

    def __init__(
        self,
        text_unet: GlideTextToImageUNet,
        text_scheduler: Scheduler,
        tokenizer: GlideTokenizer,
        upscale_unet: GlideSuperResolutionUNet | None = None,
        upscale_scheduler: Scheduler | None = None,
    ) -> None:
        super().__init__()
        check_networks(text_unet, upscale_unet, tokenizer)
        self.text_unet = text_unet
        self.tokenizer = tokenizer
        self.upscale_unet = upscale_unet
        self.text_scheduler = text_scheduler
        if upscale_unet is not None and upscale_scheduler is None:
            upscale_scheduler = upsampler_scheduler(upscale_unet)
        self.upscale_scheduler = upscale_scheduler
        self.stage = "base"

    @property
    def text_scheduler(self) -> GLIDEScheduler:
        """The sampler of the base network; assigning another one converts it."""
        return self._text_scheduler

    @text_scheduler.setter
    def text_scheduler(self, scheduler: Any) -> None:
        if not isinstance(scheduler, GLIDEScheduler):
            scheduler = GLIDEScheduler.from_config(config_of("text_scheduler", scheduler))
        self._text_scheduler: GLIDEScheduler = scheduler

    @property
    def upscale_scheduler(self) -> GLIDEScheduler | DDIMScheduler | None:
        """The sampler of the upsampler; assigning another one converts it."""
        return self._upscale_scheduler

    @upscale_scheduler.setter
    def upscale_scheduler(self, scheduler: Any) -> None:
        if not isinstance(scheduler, GLIDEScheduler | DDIMScheduler | None):
            config = config_of("upscale_scheduler", scheduler)
            scheduler = GLIDEScheduler.from_config(config, sampler="ddim")
        self._upscale_scheduler: GLIDEScheduler | DDIMScheduler | None = scheduler

    # -- files ----------------------------------------------------------------------------------

    @classmethod
    def from_single_file(
        cls,
        base: str | os.PathLike[str],
        upsample: str | os.PathLike[str] | None = None,
        *,
        base_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        upsample_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> GLIDEPipeline:
        """Load a pipeline from the files of its authors.

        Args:
            base: ``base.pt`` or ``base_inpaint.pt``.
            upsample: ``upsample.pt`` or ``upsample_inpaint.pt``; None for small images only.
            base_config: See :meth:`septet.models.PretrainedModel.from_single_file`.
            upsample_config: The same for the upsampler.
            dtype: Type of the weights, float32 if not given.
            torch_dtype: The older name of ``dtype``.
            **components: Components to use instead. By default the tokenizer is GPT-2's, and the
                samplers are the authors': DDPM with cosine betas for the base network; linear
                betas for the upsampler, with DDIM, or DDPM if it inpaints.

        Raises:
            CheckpointError: If a file is missing, damaged or does not suit.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        made = authors_components(
            base,
            upsample,
            components,
            configs=(base_config, upsample_config),
            dtype=one_dtype(dtype, torch_dtype),
        )
        return cls(**made)

    @classmethod
    def _load_part(cls, folder: CheckpointFolder, name: str, **options: Any) -> Any:
        """Load a component; folders of June 2022 have the text transformer as one of its own."""
        if name == "text_unet" and "text_encoder" in folder.components:
            return GlideTextToImageUNet.from_early_folder(
                folder.path,
                unet=folder.component(name).subfolder,
                text_encoder=folder.component("text_encoder").subfolder,
                **options,
            )
        part = super()._load_part(folder, name, **options)
        if name == "upscale_unet":
            tell_of_missing_text(part, folder.path)
        return part

    # -- runs -----------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        guidance_scale: float = 3.0,
        num_inference_steps: Respacing = 100,
        num_inference_steps_upscale: Respacing = 27,
        eta: float = 0.0,
        upsample_temp: float = 0.997,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        base_only: bool = False,
        inpaint_image: Any = None,
        inpaint_mask: Any = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images.

        Args:
            prompt: A text, or several.
            num_images_per_prompt: Number of images for each of them.
            guidance_scale: How much more than the unconditional prediction the conditional one
                counts; 1 is the conditional one alone, which halves the work.
            num_inference_steps: Steps of the base network: a number, or any other respacing, such
                as "250" or "ddim25"; see :meth:`septet.GLIDEScheduler.set_timesteps`.
            num_inference_steps_upscale: The same for the upsampler. 27 stands for the authors'
                choice "fast27", "27" for 27 evenly spaced timesteps.
            eta: Noise that DDIM adds, from 0 (none) to 1, in stages that use DDIM.
            upsample_temp: Factor of the noise that the upsampler starts from: below 1 for fewer
                artefacts, 1 for sharper images.
            generator: A ``torch.Generator``, a list of one per image, or
                :class:`septet.PhiloxSeeds`. With the first, seeds give the original's images.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]) or "pt" (``[B, C, H, W]``).
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`; called in both stages, each of
                which counts its steps from 0. Interrupted in the first one, the small images are
                returned.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.
            base_only: Whether to return the small images.
            inpaint_image: With inpainting networks, the image to keep a part of: a PIL image, or
                ``[B or 1, C, H, W]`` in [-1, 1].
            inpaint_mask: The part to keep: a PIL image, white there, or ``[B or 1, 1, H, W]``, 1
                there. As in the original, the second stage enlarges the mask of the first.

        Returns:
            The images, those of the first prompt first.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        prompts = check_prompts(prompt)
        check_int("num_images_per_prompt", num_images_per_prompt, 1, _MAX_IMAGES)
        check_number("guidance_scale", guidance_scale, 0)
        check_number("upsample_temp", upsample_temp, 0)
        check_bool("base_only", base_only)
        if self.upscale_unet is None and not base_only:
            raise ValueError("base_only must be True: this pipeline has no upscale_unet")
        rows = torch.arange(len(prompts)).repeat_interleave(num_images_per_prompt)
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        loop = functools.partial(self._loop, callback=callback_on_step_end, names=names)
        check_output_type(output_type, self.text_unet.config.out_channels // 2)
        check_generator(generator, len(rows), self.device)
        self.text_scheduler.set_timesteps(num_inference_steps)
        table = self.text_scheduler.table(eta).with_guidance(float(guidance_scale))
        table_up = None if base_only else self._upscale_table(num_inference_steps_upscale, eta)
        known = self._known(inpaint_image, inpaint_mask, len(rows), base_only)

        self._interrupt = False
        run = GlideRun(prompts, rows, self.tokenizer, generator, loop)
        self.stage = "base"
        sample = run.base(self.text_unet, table, guided=guidance_scale != 1, known=known[0])
        if table_up is not None and self.upscale_unet is not None and not self._interrupt:
            self.stage = "upscale"
            sample = run.upscale(
                self.upscale_unet, table_up, sample, temperature=upsample_temp, known=known[1]
            )
        images = to_images(sample, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    @torch.no_grad()
    def upscale(
        self,
        image: Any,
        prompt: str | Sequence[str] = "",
        num_inference_steps: Respacing = 27,
        eta: float = 0.0,
        upsample_temp: float = 0.997,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Enlarge images: the second stage alone.

        Args:
            image: ``[B, C, h, w]`` in [-1, 1], of the size that the base network makes; or a PIL
                image, which is resized to it.
            prompt: What the images show: one text for all, or one per image.
            num_inference_steps: See ``num_inference_steps_upscale`` of :meth:`__call__`.
            eta: See :meth:`__call__`, as for the others.
            upsample_temp: The same.
            generator: The same.
            output_type: The same.
            return_dict: The same.
            callback_on_step_end: The same.
            callback_on_step_end_tensor_inputs: The same.

        Returns:
            The images.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        unet = self.upscale_unet
        if unet is None:
            raise ValueError("upscale needs an upscale_unet, which this pipeline does not have")
        prompts = check_prompts(prompt)
        check_number("upsample_temp", upsample_temp, 0)
        size, channels = low_res_size(unet), unet.config.out_channels // 2
        if isinstance(image, Tensor) and image.shape[2:] != (size, size):
            raise ValueError(
                f"image must have shape [B, {channels}, {size}, {size}], got {list(image.shape)}"
            )
        low_res = as_image(image, size, channels, "image").to(self.device)
        if len(prompts) not in (1, len(low_res)):
            raise ValueError(
                f"prompt must be one text or one per image, got {len(prompts)} for {len(low_res)}"
            )
        rows = torch.arange(len(low_res)) if len(prompts) > 1 else torch.zeros(len(low_res)).long()
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        loop = functools.partial(self._loop, callback=callback_on_step_end, names=names)
        check_output_type(output_type, self.text_unet.config.out_channels // 2)
        check_generator(generator, len(rows), self.device)
        table = self._upscale_table(num_inference_steps, eta)
        self._interrupt = False
        run = GlideRun(prompts, rows, self.tokenizer, generator, loop)
        self.stage = "upscale"
        sample = run.upscale(unet, table, low_res, temperature=upsample_temp, known=None)
        images = to_images(sample, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    def _upscale_table(self, steps: Respacing, eta: float) -> StepTable:
        scheduler = self.upscale_scheduler
        if isinstance(scheduler, DDIMScheduler):
            if isinstance(steps, bool) or not isinstance(steps, int):
                raise ValueError(
                    "num_inference_steps_upscale must be a number, got "
                    f"{steps!r}: only a GLIDEScheduler knows other respacings"
                )
            scheduler.set_timesteps(steps)
            return scheduler.table(eta, use_clipped_model_output=True)
        assert scheduler is not None
        is_27 = isinstance(steps, int) and steps == _FAST27_STEPS
        scheduler.set_timesteps("fast27" if is_27 else steps)
        return scheduler.table(eta)

    def _known(
        self, image: Any, mask: Any, batch: int, base_only: bool
    ) -> tuple[KnownPixels | None, KnownPixels | None]:
        """Return the known pixels of both stages."""
        if image is None and mask is None:
            return None, None
        if image is None or mask is None:
            raise ValueError("inpaint_image and inpaint_mask must be given together")
        if not inpaints(self.text_unet):
            raise ValueError(
                "inpaint_image must be None: text_unet does not inpaint, base_inpaint.pt does"
            )
        channels = self.text_unet.config.out_channels // 2
        small = self.text_unet.config.sample_size
        known = as_mask(mask, small)
        options = {"batch": batch, "channels": channels, "device": self.device}
        base = KnownPixels.at(image, known, small, **options)
        if base_only or self.upscale_unet is None:
            return base, None
        return base, KnownPixels.at(image, known, self.upscale_unet.config.sample_size, **options)
