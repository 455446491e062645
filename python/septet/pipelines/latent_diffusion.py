"""Images from text by diffusion in the latents of an autoencoder (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from septet.checkpoints import read_single_file
from septet.config import positive_integer
from septet.models.base import one_dtype
from septet.pipelines import compvis
from septet.pipelines.base import PipelineCallback
from septet.pipelines.image import ImagePipeline, sample_size
from septet.pipelines.latents import (
    check_latent_output,
    latent_size,
    latents_to_images,
    vae_scale_factor,
)
from septet.pipelines.loading import check_names
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.prompts import (
    check_embeddings,
    check_prompts,
    encode_prompts,
    repeat_rows,
    spread_prompts,
)
from septet.random import Generators, check_generator, randn_tensor
from septet.sampling import PreparedModel
from septet.schedulers import StepTable

if TYPE_CHECKING:
    import os


class LatentDiffusionPipeline(ImagePipeline):
    """Makes images from text: a text encoder, a network on latents, and an autoencoder's decoder.

    Serves checkpoints of LDM text2im-large and of Stable Diffusion 1.x and 2.x. Stable Diffusion's
    safety checker is not part of it.

    Args:
        vqvae: An ``AutoencoderKL`` or ``VQModel``.
        bert: The text encoder: :class:`septet.LDMBertModel` or a ``CLIPTextModel``.
        tokenizer: The tokenizer of the text encoder.
        unet: A :class:`septet.UNet2DConditionModel`, or one of diffusers.
        scheduler: A DDPM, DDIM or PNDM scheduler of septet or diffusers.

    Raises:
        ValueError: If the scheduler is of an unknown kind, or the text encoder's width does not
            fit the network.
    """

    component_names: ClassVar[tuple[str, ...]] = ("vqvae", "bert", "tokenizer", "unet", "scheduler")
    component_aliases: ClassVar[Mapping[str, str]] = {"vae": "vqvae", "text_encoder": "bert"}
    index_name: ClassVar[str | None] = "LDMTextToImagePipeline"

    def __init__(self, vqvae: Any, bert: Any, tokenizer: Any, unet: Any, scheduler: Any) -> None:
        super().__init__()
        width = getattr(bert.config, "d_model", getattr(bert.config, "hidden_size", None))
        wanted = unet.config.cross_attention_dim
        if width is not None and width != wanted:
            raise ValueError(
                f"bert must have the width {wanted} of unet.config.cross_attention_dim, got a "
                f"{type(bert).__name__} of width {width}"
            )
        self.vqvae = vqvae
        self.bert = bert
        self.tokenizer = tokenizer
        self.unet = unet
        self.scheduler = scheduler

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        return vae_scale_factor(self.vqvae)

    @classmethod
    def from_single_file(
        cls,
        file: str | os.PathLike[str],
        *,
        tokenizer: Any = None,
        use_ema: bool = True,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> LatentDiffusionPipeline:
        """Load a pipeline from CompVis' ``model.ckpt`` or a Stable Diffusion 1.x file.

        Args:
            file: A pickled file, read without running any code in it, or a safetensors file.
            tokenizer: The tokenizer of the text encoder, or the folder with its vocabulary: the
                file has none.
            use_ema: Whether to take the averaged weights where the file has both.
            dtype: Dtype of the weights, None for float32.
            torch_dtype: The older name of ``dtype``.
            **components: Components to use instead of those in the file. By default ``scheduler``
                is the authors' DDIM.

        Raises:
            CheckpointError: If the file is missing, damaged or does not suit, or the tokenizer is
                missing.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        kind = one_dtype(dtype, torch_dtype)
        path = Path(file)
        found = read_single_file(path, use_ema=use_ema)
        bert = components.pop("bert", None) or compvis.compvis_text_encoder(found, path, kind)
        tokenizer = compvis.find_tokenizer(tokenizer, bert, path)
        return cls(
            vqvae=components.get("vqvae") or compvis.compvis_vae(found, path, kind),
            bert=bert,
            tokenizer=tokenizer,
            unet=components.get("unet") or compvis.compvis_unet(found, path, kind),
            scheduler=components.get("scheduler") or compvis.compvis_scheduler(found, path),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images.

        Args:
            prompt: What to draw, one text or several. Longer texts than the text encoder can
                take are cut, with a warning.
            height: In pixels, a multiple of :attr:`vae_scale_factor`; by default the size that the
                network was trained with.
            width: The same.
            num_inference_steps: 1 to the scheduler's number of training steps.
            guidance_scale: Weight of the text against ``negative_prompt`` (Ho and Salimans 2021);
                1 does without guidance, in half the time.
            eta: Noise of DDIM, 0 to 1. Other schedulers do not look at it.
            generator: A ``torch.Generator``, a list of one per image, or
                :class:`septet.PhiloxSeeds`; it draws the noise of ``eta`` too.
            latents: ``[B * num_images_per_prompt, C, height / 8, width / 8]``, the starting noise.
            output_type: "pil", "np" (``[B, H, W, C]`` in [0, 1]), "pt" (``[B, C, H, W]``) or
                "latent", which leaves out the decoder.
            return_dict: Whether to return an object instead of a tuple.
            negative_prompt: What to keep away from, one text or one per prompt; by default "".
            num_images_per_prompt: Images of one prompt follow each other.
            prompt_embeds: ``[B, L, D]``, the text encoder's output, instead of ``prompt``.
            negative_prompt_embeds: ``[1 or B, L, D]``, instead of ``negative_prompt``.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.

        Returns:
            The images.

        Raises:
            ValueError: If an argument makes no sense or does not fit another; the message names
                it.
        """
        texts = _Texts.check(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guidance_scale
        )
        count = positive_integer("num_images_per_prompt", num_images_per_prompt)
        shape = self._latent_shape(texts.batch_size * count, height, width)
        check_latent_output(output_type, self.vqvae)
        check_generator(generator, shape[0], self.device)
        if latents is not None and latents.shape != shape:
            raise ValueError(f"latents must be {list(shape)}, got {list(latents.shape)}")
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.scheduler.set_timesteps(num_inference_steps)
        table = self._table(eta)
        if texts.guided:
            table = table.with_guidance(float(guidance_scale))

        conditional, unconditional = self._encode(texts)
        if latents is None:
            latents = randn_tensor(shape, generator, self.device, conditional.dtype)
        sample = latents.to(self.device, conditional.dtype) * self.scheduler.init_noise_sigma
        model = prepare_conditional(
            self.unet,
            table,
            repeat_rows(conditional, count),
            None if unconditional is None else repeat_rows(unconditional, count),
        )
        sample = self._sample(table, model, sample, generator, callback_on_step_end, names)
        images = latents_to_images(self.vqvae, sample, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    def _latent_shape(
        self, batch_size: int, height: int | None, width: int | None
    ) -> tuple[int, int, int, int]:
        factor = self.vae_scale_factor
        rows, columns = sample_size(self.unet.config)
        return (
            batch_size,
            self.unet.config.in_channels,
            latent_size(height, rows, factor, "height"),
            latent_size(width, columns, factor, "width"),
        )

    def _encode(self, texts: _Texts) -> tuple[Tensor, Tensor | None]:
        """Return the conditions ``[B, L, D]`` with and, under guidance, without the text."""
        width = self.unet.config.cross_attention_dim
        owner = "unet.config.cross_attention_dim"
        dtype = next(self.unet.parameters()).dtype
        conditional = texts.prompt_embeds
        if conditional is None:
            conditional = encode_prompts(texts.prompts, self.tokenizer, self.bert)
        conditional = check_embeddings(conditional, width, "prompt_embeds", owner)
        conditional = conditional.to(self.device, dtype)
        if not texts.guided:
            return conditional, None
        negative = texts.negative_prompt_embeds
        if negative is None:
            # equal texts are encoded once
            different = list(dict.fromkeys(texts.negative_prompts))
            rows = [different.index(text) for text in texts.negative_prompts]
            negative = encode_prompts(different, self.tokenizer, self.bert)[rows]
        negative = check_embeddings(negative, width, "negative_prompt_embeds", owner)
        if negative.shape[0] == 1:
            negative = negative.expand(conditional.shape[0], -1, -1)
        if negative.shape != conditional.shape:
            raise ValueError(
                f"negative_prompt_embeds must match prompt_embeds {list(conditional.shape)}, got "
                f"{list(negative.shape)}"
            )
        return conditional, negative.to(self.device, dtype)


@dataclass(frozen=True)
class _Texts:
    """The texts of one call, checked against each other but not yet encoded."""

    batch_size: int
    guided: bool
    prompts: list[str]
    negative_prompts: list[str]
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None

    @classmethod
    def check(
        cls,
        prompt: object,
        negative_prompt: object,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        guidance_scale: float,
    ) -> _Texts:
        """Check what a call was given.

        Raises:
            ValueError: If something is missing, given twice, or of another length.
        """
        if not isinstance(guidance_scale, int | float) or guidance_scale != guidance_scale:
            raise ValueError(f"guidance_scale must be a number, got {guidance_scale!r}")
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("exactly one of prompt and prompt_embeds must be given")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("only one of negative_prompt and negative_prompt_embeds may be given")
        prompts = [] if prompt is None else check_prompts(prompt)
        count = len(prompts) if prompt_embeds is None else len(prompt_embeds)
        negatives = spread_prompts(
            "" if negative_prompt is None else negative_prompt, count, "negative_prompt"
        )
        guided = guidance_scale != 1
        return cls(count, guided, prompts, negatives, prompt_embeds, negative_prompt_embeds)


def prepare_conditional(
    unet: Any, table: StepTable, conditional: Tensor, unconditional: Tensor | None
) -> PreparedModel:
    """Bind a network to the timesteps of a table and to its conditions.

    Args:
        unet: A network of septet, which computes ahead what no step changes; or any callable
            ``unet(sample, timestep, encoder_hidden_states=...)``, such as a diffusers network.
        table: The run.
        conditional: ``[B, L, D]``.
        unconditional: The same for guidance, or None.
    """
    timesteps = torch.tensor(table.timesteps, device=conditional.device)
    if hasattr(unet, "prepare"):
        prepared: PreparedModel = unet.prepare(timesteps, conditional, unconditional)
        return prepared
    if unconditional is None:

        def call(sample: Tensor, row: int) -> Tensor:
            output: Tensor = unet(sample, timesteps[row], encoder_hidden_states=conditional).sample
            return output

        return call
    both = torch.cat([unconditional, conditional])

    def call_guided(sample: Tensor, row: int) -> tuple[Tensor, Tensor]:
        twice = torch.cat([sample, sample])
        output = unet(twice, timesteps[row], encoder_hidden_states=both).sample
        without, with_text = output.chunk(2)
        return with_text, without

    return call_guided


#: The name that diffusers gives the pipeline.
LDMTextToImagePipeline = LatentDiffusionPipeline
