"""What pipelines that make sound return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from septet.pipelines.output import PipelineOutput

AUDIO_OUTPUT_TYPES = ("pt", "np")


@dataclass(frozen=True)
class AudioPipelineOutput(PipelineOutput):
    """The waveforms of one call; ``output[0]`` and ``output["audios"]`` work too.

    Attributes:
        audios: ``[B, 1, samples]``, about -1 to 1 and not clamped; zero beyond the end of a shorter
            one. A tensor for output type "pt", a float32 array for "np".
        lengths: Samples of each.
        sampling_rate: Samples per second.
    """

    audios: Any
    lengths: tuple[int, ...]
    sampling_rate: int

    def to_tuple(self) -> tuple[Any, ...]:
        """Return ``(audios,)``, all that diffusers has."""
        return (self.audios,)
