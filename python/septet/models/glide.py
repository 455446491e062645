"""GLIDE's networks: from text to a small image, and from a small image to a large one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from septet.checkpoints import file_inside, inside, read_json, read_weights
from septet.checkpoints.glide import text_encoder_config, text_encoder_keys
from septet.errors import CheckpointError
from septet.models.base import CONFIG_NAME, one_dtype
from septet.models.glide_config import GlideSuperResolutionConfig, GlideTextToImageConfig
from septet.models.glide_prepared import PreparedGlideUNet
from septet.models.glide_unet import GlideUNet
from septet.models.unet_2d import UNet2DOutput

if TYPE_CHECKING:
    import os


class GlideTextToImageUNet(GlideUNet):
    """The base network: a noisy image, its timestep and a text to the noise and its variance.

    Source: GLIDE (Nichol et al. 2021); weights under the authors' names, those of ``base.pt`` and
    ``base_inpaint.pt``. It contains its text transformer.

    Args:
        **config: The keys of :class:`GlideTextToImageConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[GlideTextToImageConfig]] = GlideTextToImageConfig

    @classmethod
    def from_early_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        unet: str | None = "text_unet",
        text_encoder: str | None = "text_encoder",
        hidden_act: str | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
    ) -> GlideTextToImageUNet:
        """Load from a folder of June 2022, where the text transformer is a component of its own.

        Args:
            folder: The checkpoint folder, such as ``fusing/glide-base``.
            unet: The folder in it with the image network, None for the folder itself.
            text_encoder: The same for the text transformer.
            hidden_act: Activation of the text transformer. Not given, it is that of the folder's
                configuration: "quick_gelu", although the weights were trained with "gelu".
            dtype: See :meth:`from_pretrained`, as for the next two.
            variant: The same.
            use_safetensors: The same.

        Raises:
            CheckpointError: If a file is missing, damaged or does not suit.
            ValueError: If ``dtype`` is not floating.
        """
        root = Path(folder)
        text_file = file_inside(root, text_encoder, CONFIG_NAME)
        try:
            text_settings = text_encoder_config(read_json(text_file))
        except ValueError as error:
            raise CheckpointError(f"{text_file}: {error}") from error
        if hidden_act is not None:
            text_settings["hidden_act"] = hidden_act
        unet_file = file_inside(root, unet, CONFIG_NAME)
        config = {"transformer_dim": text_settings["xf_width"], **read_json(unet_file)}
        if config["transformer_dim"] != text_settings["xf_width"]:
            raise CheckpointError(
                f"{unet_file}: transformer_dim must be the hidden_size of {text_file}, "
                f"{text_settings['xf_width']}"
            )
        model = cls._on_meta({**config, **text_settings}, unet_file)
        tensors: dict[str, Tensor] = {}
        for part, is_text in ((unet, False), (text_encoder, True)):
            where = root if part is None else inside(root, part)
            path, found = read_weights(
                where,
                root=root,
                variant=variant,
                use_safetensors=use_safetensors,
                styles=("transformers", "diffusers") if is_text else ("diffusers",),
            )
            tensors |= text_encoder_keys(found, path) if is_text else found
        return model._take(tensors, root, one_dtype(dtype, None))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        inpaint_image: Tensor | None = None,
        inpaint_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: ``[B, C, H, W]``; H and W are multiples of two to the power of the number of
                levels less one.
            timestep: A number, a 0-d tensor, or ``[1]`` or ``[B]``: one per sample.
            tokens: ``[B or 1, text_ctx]``, the texts; None for a network that reads none.
            mask: ``[B or 1, text_ctx]``, False where a token is padding.
            inpaint_image: ``[B, C, H, W]`` in [-1, 1], for a network that inpaints; nothing is
                known if it is not given.
            inpaint_mask: ``[B, 1, H, W]``, 1 where ``inpaint_image`` is known, else 0.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            ``[B, 2 * C, H, W]``: the noise, then where its log variance lies in its range, from
            -1 to 1. An object, or a tuple with that alone.

        Raises:
            ValueError: If a shape is wrong, or something is missing or not expected.
        """
        conditions = self._inpainting(inpaint_image, inpaint_mask, sample)
        output = self._run(sample, timestep, tokens, mask, conditions)
        return UNet2DOutput(output) if return_dict else (output,)

    def prepare(
        self,
        timesteps: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        text_rows: Tensor | None = None,
        guided: bool = False,
        inpaint_image: Tensor | None = None,
        inpaint_mask: Tensor | None = None,
    ) -> PreparedGlideUNet:
        """Compute at once whatever does not depend on the sample.

        That is the text transformer, the keys and values of all attention blocks, and the
        embeddings of all timesteps and texts with their projection in every residual block.
        Nothing is approximated.

        Args:
            timesteps: ``[num_steps]``.
            tokens: ``[R, text_ctx]``, the texts, each needed once; None for a network that reads
                none.
            mask: ``[R, text_ctx]``, False where a token is padding.
            text_rows: Which text belongs to each row of the network's batch. Not given, there is
                one text per row, or one for all.
            guided: Whether the network's batch is twice the samples: first as conditional rows,
                then as unconditional ones.
            inpaint_image: See :meth:`forward`, but needed by a network that inpaints.
            inpaint_mask: The same.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``timesteps[row]``.

        Raises:
            ValueError: If a shape is wrong, or something is missing or not expected.
        """
        conditions = self._inpainting(inpaint_image, inpaint_mask, None)
        return self._prepare(timesteps, tokens, mask, text_rows, guided, conditions)


class GlideSuperResolutionUNet(GlideUNet):
    """The upsampler: the same network, which also reads the small image.

    Source: GLIDE (Nichol et al. 2021); weights under the authors' names, those of ``upsample.pt``
    and ``upsample_inpaint.pt``. The upsampler of the folders of June 2022 reads no text.

    Args:
        **config: The keys of :class:`GlideSuperResolutionConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[GlideSuperResolutionConfig]] = GlideSuperResolutionConfig

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        low_res: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        inpaint_image: Tensor | None = None,
        inpaint_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: See :meth:`GlideTextToImageUNet.forward`, as for the others.
            timestep: The same.
            low_res: ``[B, C, H / upscale_factor, W / upscale_factor]`` in [-1, 1], the small
                image.
            tokens: The same.
            mask: The same.
            inpaint_image: The same.
            inpaint_mask: The same.
            return_dict: The same.

        Returns:
            The same.

        Raises:
            ValueError: If a shape is wrong, or something is missing or not expected.
        """
        conditions = (
            *self._inpainting(inpaint_image, inpaint_mask, sample),
            self.upsample(low_res),
        )
        output = self._run(sample, timestep, tokens, mask, conditions)
        return UNet2DOutput(output) if return_dict else (output,)

    def prepare(
        self,
        timesteps: Tensor,
        low_res: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        text_rows: Tensor | None = None,
        guided: bool = False,
        inpaint_image: Tensor | None = None,
        inpaint_mask: Tensor | None = None,
    ) -> PreparedGlideUNet:
        """Compute at once whatever does not depend on the sample.

        Args:
            timesteps: See :meth:`GlideTextToImageUNet.prepare`, as for the others.
            low_res: See :meth:`forward`. It is enlarged once.
            tokens: The same.
            mask: The same.
            text_rows: The same.
            guided: The same.
            inpaint_image: The same.
            inpaint_mask: The same.

        Returns:
            The same.

        Raises:
            ValueError: If a shape is wrong, or something is missing or not expected.
        """
        conditions = (*self._inpainting(inpaint_image, inpaint_mask, None), self.upsample(low_res))
        return self._prepare(timesteps, tokens, mask, text_rows, guided, conditions)

    def upsample(self, low_res: Tensor) -> Tensor:
        """Enlarge small images ``[B, C, h, w]`` by ``upscale_factor``, bilinearly.

        Raises:
            ValueError: If the shape is wrong.
        """
        channels = self._settings.sample_channels
        if low_res.ndim != 4 or low_res.shape[1] != channels:
            raise ValueError(
                f"low_res must have shape [B, {channels}, h, w], got {list(low_res.shape)}"
            )
        low_res = low_res.to(self.device, self.dtype)
        factor = float(self.config.upscale_factor)
        return F.interpolate(low_res, scale_factor=factor, mode="bilinear", align_corners=False)
