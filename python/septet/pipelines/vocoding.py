"""From mel spectrograms to waveforms, with whatever vocoder a pipeline was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from septet.models import HiFiGANModel
from septet.pipelines.base import DiffusionPipeline
from septet.random import Generators, PhiloxSeeds

if TYPE_CHECKING:
    from torch import Tensor


def check_vocoder(vocoder: Any, num_mels: int) -> None:
    """Refuse what is no vocoder, or one for other spectrograms.

    Args:
        vocoder: A HiFi-GAN, a pipeline from spectrograms to audio, or None.
        num_mels: Bins of the spectrograms it is to get.

    Raises:
        ValueError: If it does not suit.
    """
    if vocoder is None:
        return
    if isinstance(vocoder, HiFiGANModel):
        bins = vocoder.config.num_mels
    elif isinstance(vocoder, DiffusionPipeline):
        configs = [getattr(part, "config", {}) for part in vocoder.components.values()]
        bins = next((c["num_mels"] for c in configs if "num_mels" in c), num_mels)
    else:
        raise ValueError(
            f"vocoder must be a HiFiGANModel or a BDDMPipeline, got {type(vocoder).__name__}"
        )
    if bins != num_mels:
        raise ValueError(f"vocoder must take spectrograms of {num_mels} mel bins, but takes {bins}")


def vocode(
    vocoder: Any,
    mels: Sequence[Tensor],
    generator: Generators,
    options: Mapping[str, Any] | None,
) -> list[Tensor] | None:
    """Make waveforms, one spectrogram at a time: beside padding they would sound different.

    Args:
        vocoder: See :func:`check_vocoder`.
        mels: ``[1, num_mels, T]`` each.
        generator: Where a vocoder's noise comes from.
        options: Further arguments for a vocoder that is a pipeline.

    Returns:
        ``[samples]`` each; None without a vocoder.
    """
    if vocoder is None:
        return None
    if isinstance(vocoder, HiFiGANModel):
        return [vocoder(mel.to(vocoder.dtype))[0] for mel in mels]
    audios = []
    offset = None
    for index, mel in enumerate(mels):
        own = generator
        if isinstance(generator, PhiloxSeeds):
            own = PhiloxSeeds([generator.seeds[index]], generator.offset)
        elif isinstance(generator, Sequence):
            own = generator[index]
        result = vocoder(mel, generator=own, output_type="pt", **(options or {}))
        audios.append(result.audios.reshape(-1))
        offset = max(offset or 0, own.offset) if isinstance(own, PhiloxSeeds) else None
    if offset is not None and isinstance(generator, PhiloxSeeds):
        generator.offset = offset
    return audios
