"""The score network of BDDM: DiffWave, conditioned on a noise level and a mel spectrogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.checkpoints.weight_norm import fold_weight_norm
from septet.models.base import PretrainedModel
from septet.models.diffwave_config import DiffWaveConfig
from septet.nn.embedding import at_row, sinusoidal_embedding, timesteps_of_call
from septet.nn.wavenet import MelMask, NamedConv, WaveNetLayer


@dataclass(frozen=True, eq=False)
class DiffWaveOutput:
    """What the network returns.

    Attributes:
        sample: ``[B, out_channels, samples]``, the predicted noise.
    """

    sample: Tensor


@dataclass(frozen=True, eq=False)
class PreparedDiffWave:
    """A network with all that depends on its timesteps and mel spectrograms only.

    Attributes:
        model: The network.
        steps: ``[num_steps, layers, B or 1, res_channels]``, step embeddings as layers add them.
        mel: The mel spectrograms as the layers add them.
    """

    model: DiffWaveModel
    steps: Tensor
    mel: PreparedMel

    def __len__(self) -> int:
        """Return the number of timesteps prepared."""
        return self.steps.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor:
        """Run the network at one of the prepared timesteps.

        Args:
            sample: ``[B, in_channels, samples]``.
            row: Index of the timestep. A tensor with one integer, on the network's device, is
                read there without a host synchronisation.

        Returns:
            ``[B, out_channels, samples]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or the spectrograms.
        """
        steps = at_row(self.steps, row)
        return self.model.denoise(sample, steps, self.mel)


@dataclass(frozen=True, eq=False)
class PreparedMel:
    """Mel spectrograms, and what the layers add of them, as far as it is kept.

    Attributes:
        spectrogram: ``[B, num_mels, frames]``, zero beyond each sample's length.
        num_positions: Length of the network's activations.
        lengths: ``[B]`` frames per sample, None where all fill the batch.
        projections: ``[B, positions, 2 * res_channels]`` of the first layers; the others compute
            theirs when they need it.
        mask: ``[B, positions]``, 0 beyond a sample's end; None with ``lengths`` None.
    """

    spectrogram: Tensor
    num_positions: int
    lengths: Tensor | None
    projections: Sequence[Tensor]
    mask: Tensor | None

    def of_layer(self, index: int, layer: WaveNetLayer) -> Tensor:
        """Return what a layer adds to its dilated convolution."""
        if index < len(self.projections):
            return self.projections[index]
        mask = None if self.lengths is None else MelMask(self.lengths)
        return layer.project_mel(self.spectrogram, self.num_positions, mask)


class DiffWaveModel(PretrainedModel):
    """Predicts the noise in a waveform, given its mel spectrogram.

    Source: DiffWave (Kong et al. 2021) as in BDDM (Lam et al. 2022). Keys of weights are those of
    the authors and of diffusers 0.0.4, but with the weight normalisation folded: ``weight``
    instead of ``weight_g`` and ``weight_v``. :meth:`load_state_dict` accepts all three forms
    (also that of torch's parametrisation) and folds them; :meth:`state_dict` gives the folded one.

    Args:
        **config: The keys of :class:`DiffWaveConfig`; missing ones get their default.

    Attributes:
        max_prepared_bytes: How much memory :meth:`prepare` may fill with the spectrograms'
            projections; the layers that find no room compute theirs in every step.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[DiffWaveConfig]] = DiffWaveConfig
    max_prepared_bytes: int = 4 << 30

    def __init__(self, **config: Any) -> None:
        settings = DiffWaveConfig.from_dict(config)
        super().__init__(settings)
        self._settings = settings
        width, skip, group = settings.res_channels, settings.skip_channels, settings.group_size
        self.init_conv = nn.Sequential(
            NamedConv(group * settings.in_channels, width, 1), nn.ReLU(inplace=True)
        )
        self.residual_layer = _ResidualLayers(settings)
        self.final_conv = nn.Sequential(
            NamedConv(skip, skip, 1),
            nn.ReLU(inplace=True),
            NamedConv(skip, group * settings.out_channels, 1),
        )
        last = cast("NamedConv", self.final_conv[2]).conv
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.register_load_state_dict_pre_hook(_fold_in_place)  # type: ignore[no-untyped-call]

    @property
    def settings(self) -> DiffWaveConfig:
        """The configuration, with what follows from it."""
        return self._settings

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        mel_spectrogram: Tensor,
        lengths: Tensor | None = None,
        return_dict: bool = True,
    ) -> DiffWaveOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: ``[B, in_channels, samples]``; samples are a multiple of ``group_size``, and
                at most frames times hop length.
            timestep: A number, a 0-d tensor, or ``[1]``, ``[B]`` or ``[B, 1]``; fractions count.
            mel_spectrogram: ``[B, num_mels, frames]``.
            lengths: ``[B]`` frames per sample, where some are shorter than the batch. Then a
                sample gets what it would get alone.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The output, or a tuple with the sample alone.

        Raises:
            ValueError: If a shape is wrong.
        """
        timesteps = timesteps_of_call(timestep, sample, self.device)
        mel = self._prepare_mel(mel_spectrogram, lengths, sample.shape[-1], max_bytes=0)
        output = self.denoise(sample, self._project_steps(timesteps), mel)
        return DiffWaveOutput(output) if return_dict else (output,)

    def prepare(
        self,
        timesteps: Tensor,
        mel_spectrogram: Tensor,
        lengths: Tensor | None = None,
        num_samples: int | None = None,
    ) -> PreparedDiffWave:
        """Compute for a whole run whatever does not depend on the sample.

        That is the step embeddings as every layer adds them, and the spectrograms, stretched to
        the length of the waveform and projected for every layer. Nothing is approximated.

        Args:
            timesteps: ``[num_steps]``, fractions count.
            mel_spectrogram: ``[B, num_mels, frames]``.
            lengths: ``[B]`` frames per sample; None means that all fill the batch.
            num_samples: Length of the waveforms, frames times hop length if not given.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``timesteps[row]``.

        Raises:
            ValueError: If a shape is wrong.
        """
        if timesteps.ndim != 1:
            raise ValueError(f"timesteps must have one axis, got shape {list(timesteps.shape)}")
        mel = self._prepare_mel(mel_spectrogram, lengths, num_samples, self.max_prepared_bytes)
        steps = self._project_steps(timesteps.to(self.device))
        return PreparedDiffWave(self, steps.transpose(0, 1)[:, :, None], mel)

    def denoise(self, sample: Tensor, steps: Tensor, mel: PreparedMel) -> Tensor:
        """Run the network with everything else given.

        Args:
            sample: ``[B, in_channels, samples]``.
            steps: ``[layers, B or 1, res_channels]``.
            mel: The spectrograms.

        Returns:
            ``[B, out_channels, samples]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or the spectrograms.
        """
        self._check_sample(sample, mel)
        layers = self.residual_layer.layers
        hidden: Tensor | None = self.init_conv(self._group(sample))
        skips: Tensor | None = None
        for index, layer in enumerate(layers):
            hidden, skips = layer(
                hidden,
                steps[index],
                mel.of_layer(index, layer),
                mel.mask,
                skips,
                is_last=index + 1 == len(layers),
            )
        first, activation, last = self.final_conv
        output = last(activation(first(skips, math.sqrt(1 / len(layers)))))
        if mel.mask is not None:
            output = output * mel.mask[:, :, None]
        return self._ungroup(output)

    def _prepare_mel(
        self,
        spectrogram: Tensor,
        lengths: Tensor | None,
        num_samples: int | None,
        max_bytes: int,
    ) -> PreparedMel:
        settings = self._settings
        self._check_mel(spectrogram)
        frames = spectrogram.shape[-1]
        num_samples = frames * settings.hop_length if num_samples is None else num_samples
        if num_samples > frames * settings.hop_length or num_samples % settings.group_size:
            raise ValueError(
                f"sample must have at most {frames * settings.hop_length} values (that many "
                f"frames) and a multiple of group_size = {settings.group_size}, got {num_samples}"
            )
        num_positions = num_samples // settings.group_size
        spectrogram = spectrogram.to(self.device, self.dtype)
        mask: Tensor | None = None
        if lengths is not None:
            lengths = _checked_lengths(lengths, spectrogram)
            spectrogram = spectrogram * MelMask(lengths)(1, frames)[:, None]
            factor = settings.hop_length // settings.group_size
            mask = MelMask(lengths)(factor, num_positions).to(self.dtype)
        size = 2 * settings.res_channels * num_positions * spectrogram.shape[0]
        size *= spectrogram.element_size()
        kept = min(max_bytes // max(size, 1), settings.num_res_layers)
        layers = self.residual_layer.layers
        prepared = PreparedMel(spectrogram, num_positions, lengths, (), mask)
        projections = [prepared.of_layer(i, layer) for i, layer in enumerate(layers[:kept])]
        return replace(prepared, projections=projections)

    def _project_steps(self, timesteps: Tensor) -> Tensor:
        """Embed timesteps ``[N]`` and project them: ``[layers, N, res_channels]``."""
        sinusoids = sinusoidal_embedding(
            timesteps, self._settings.diffusion_step_embed_dim_in, freq_shift=1.0
        )
        embedding = self.residual_layer.embed(sinusoids.to(self.dtype))
        return torch.stack([layer.fc_t(embedding) for layer in self.residual_layer.layers])

    def _group(self, sample: Tensor) -> Tensor:
        """Turn ``[B, C, samples]`` into ``[B, positions, C * group_size]``."""
        batch, channels, _ = sample.shape
        grouped = sample.reshape(batch, channels, -1, self._settings.group_size)
        return grouped.transpose(1, 2).flatten(2)

    def _ungroup(self, output: Tensor) -> Tensor:
        batch, positions, _ = output.shape
        grouped = output.reshape(batch, positions, -1, self._settings.group_size)
        return grouped.transpose(1, 2).flatten(2)

    def _check_mel(self, spectrogram: Tensor) -> None:
        bands = self._settings.num_mels
        if spectrogram.ndim != 3 or spectrogram.shape[1] != bands or not spectrogram.numel():
            raise ValueError(
                f"mel_spectrogram must have shape [B, {bands}, frames], got "
                f"{list(spectrogram.shape)}"
            )

    def _check_sample(self, sample: Tensor, mel: PreparedMel) -> None:
        expected = [
            mel.spectrogram.shape[0],
            self._settings.in_channels,
            mel.num_positions * self._settings.group_size,
        ]
        if list(sample.shape) != expected:
            raise ValueError(
                f"sample must have shape {expected} with these spectrograms, got "
                f"{list(sample.shape)}"
            )


class _ResidualLayers(nn.Module):
    """The embedding of the step and the layers, under the authors' names."""

    def __init__(self, settings: DiffWaveConfig) -> None:
        super().__init__()
        middle = settings.diffusion_step_embed_dim_mid
        self.fc_t1 = nn.Linear(settings.diffusion_step_embed_dim_in, middle)
        self.fc_t2 = nn.Linear(middle, settings.diffusion_step_embed_dim_out)
        self.residual_blocks = nn.ModuleList(
            WaveNetLayer(
                settings.res_channels,
                settings.skip_channels,
                2 ** (index % settings.dilation_cycle),
                embed_dim=settings.diffusion_step_embed_dim_out,
                num_mels=settings.num_mels,
                upsample_factors=settings.upsample_factors,
            )
            for index in range(settings.num_res_layers)
        )

    @property
    def layers(self) -> list[WaveNetLayer]:
        """The layers in order."""
        return [cast("WaveNetLayer", layer) for layer in self.residual_blocks]

    def embed(self, sinusoids: Tensor) -> Tensor:
        """Map ``[N, embed_dim_in]`` to ``[N, embed_dim_out]``."""
        return F.silu(self.fc_t2(F.silu(self.fc_t1(sinusoids))))


def _checked_lengths(lengths: Tensor, spectrogram: Tensor) -> Tensor:
    batch, _, frames = spectrogram.shape
    given = torch.as_tensor(lengths).cpu()
    if given.shape != (batch,) or given.is_floating_point():
        raise ValueError(f"lengths must be {batch} integers, got shape {list(given.shape)}")
    if int(given.min()) < 1 or int(given.max()) > frames:
        raise ValueError(f"lengths must be from 1 to {frames} frames, got {given.tolist()}")
    return given.to(spectrogram.device)


def _fold_in_place(
    _module: nn.Module, state_dict: dict[str, Any], prefix: str, *_args: object
) -> None:
    """Fold weight normalisation in the part of a state dict that belongs to the module."""
    own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    folded = fold_weight_norm(own)
    for key in own.keys() - folded.keys():
        del state_dict[key]
    state_dict.update(folded)
