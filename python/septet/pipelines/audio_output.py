"""What pipelines that make sound return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

AUDIO_OUTPUT_TYPES = ("pt", "np")


@dataclass(frozen=True)
class AudioPipelineOutput:
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
        """Return ``(audios,)``."""
        return (self.audios,)

    def __getitem__(self, key: int | str) -> Any:
        """Return an entry by position or name."""
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        """Unpack as a tuple."""
        return iter(self.to_tuple())


def check_audio_output_type(output_type: str) -> None:
    """Raise ValueError if an output type is unknown."""
    if output_type not in AUDIO_OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {AUDIO_OUTPUT_TYPES}, got {output_type!r}")
