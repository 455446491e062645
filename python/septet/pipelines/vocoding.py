"""From mel spectrograms to waveforms, with whatever vocoder a pipeline was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from septet.models import HiFiGANModel
from septet.pipelines.base import DiffusionPipeline

if TYPE_CHECKING:
    from torch import Tensor

    from septet.random import Generators


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
        parts = [vocoder]
    elif isinstance(vocoder, DiffusionPipeline):
        parts = list(vocoder.components.values())
    else:
        raise ValueError(
            f"vocoder must be a HiFiGANModel or a BDDMPipeline, got {type(vocoder).__name__}"
        )
    for part in parts:
        bins = getattr(part, "config", {}).get("num_mels", num_mels)
        if bins != num_mels:
            raise ValueError(
                f"vocoder must take spectrograms of {num_mels} mel bins, but takes {bins}"
            )


def sampling_rate(vocoder: Any) -> int | None:
    """Return the samples per second of what a vocoder makes, None without a vocoder."""
    if isinstance(vocoder, HiFiGANModel):
        rate: int = vocoder.config.sampling_rate
        return rate
    return getattr(vocoder, "sampling_rate", None)


def vocode(
    vocoder: Any,
    mels: Sequence[Tensor],
    generator: Generators,
    options: Mapping[str, Any] | None,
) -> list[Tensor] | None:
    """Make a waveform of every spectrogram, each as if it were alone.

    Args:
        vocoder: See :func:`check_vocoder`.
        mels: ``[num_mels, T]`` each.
        generator: Where a vocoder's noise comes from.
        options: Further arguments for a vocoder that is a pipeline.

    Returns:
        ``[samples]`` each; None without a vocoder.
    """
    if vocoder is None:
        return None
    if isinstance(vocoder, HiFiGANModel):
        return [vocoder(mel[None].to(vocoder.dtype))[0] for mel in mels]
    output = vocoder(list(mels), generator=generator, output_type="pt", **(options or {}))
    return [
        audio.reshape(-1)[:length]
        for audio, length in zip(output.audios, output.lengths, strict=True)
    ]
