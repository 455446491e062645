"""Speech from mel spectrograms in few steps (Lam et al. 2022, BDDM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Union

import numpy as np
import torch
from torch import Tensor

from septet.checkpoints import read_single_file, read_training_config
from septet.checkpoints.diffwave import SCHEDULE_PREFIX
from septet.config import check_choice, check_int
from septet.errors import CheckpointError
from septet.models import DiffWaveModel, GALRModel
from septet.models.base import one_dtype
from septet.pipelines.audio_output import AUDIO_OUTPUT_TYPES, AudioPipelineOutput
from septet.pipelines.base import DiffusionPipeline, PipelineCallback
from septet.pipelines.loading import check_names
from septet.pipelines.ragged import RaggedNoise
from septet.pipelines.schedule_search import (
    Judge,
    ScheduleFollower,
    ScheduleSearch,
    SearchResult,
)
from septet.random import Generators, check_generator, randn_tensor
from septet.schedulers import BDDMScheduler, Scheduler

if TYPE_CHECKING:
    import os

    from septet.schedulers.bddm import ScheduleLike

#: ``[num_mels, frames]``, ``[B, num_mels, frames]``, or several of the first.
Spectrograms = Union[Tensor, "np.ndarray", Sequence[Union[Tensor, "np.ndarray"]]]


class BDDMPipeline(DiffusionPipeline):
    """A vocoder: turns mel spectrograms into waveforms.

    Args:
        diffwave: The score network.
        scheduler: A BDDM scheduler; another one is converted through its configuration.
        schedule_network: Finds noise schedules, see :meth:`search_schedules`; None where the
            checkpoint has none.

    Raises:
        ValueError: If a component is of a wrong kind.
    """

    component_names: ClassVar[tuple[str, ...]] = ("diffwave", "scheduler", "schedule_network")
    optional_components: ClassVar[frozenset[str]] = frozenset({"schedule_network"})

    def __init__(
        self,
        diffwave: DiffWaveModel,
        scheduler: Scheduler,
        schedule_network: GALRModel | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(diffwave, DiffWaveModel):
            raise ValueError(f"diffwave must be a DiffWaveModel, got {type(diffwave).__name__}")
        if schedule_network is not None and not isinstance(schedule_network, GALRModel):
            name = type(schedule_network).__name__
            raise ValueError(f"schedule_network must be a GALRModel or None, got {name}")
        if not isinstance(scheduler, BDDMScheduler):
            if not hasattr(scheduler, "config"):
                name = type(scheduler).__name__
                raise ValueError(f"scheduler must have a configuration, got {name}")
            scheduler = BDDMScheduler.from_config(scheduler.config)
        self.diffwave = diffwave
        self.scheduler = scheduler
        self.schedule_network = schedule_network

    @property
    def sampling_rate(self) -> int:
        """Samples per second of what the vocoder makes."""
        return self.diffwave.settings.sampling_rate

    @classmethod
    def from_single_file(
        cls,
        file: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> BDDMPipeline:
        """Load a vocoder from a file of the authors, ``DiffWave.pkl`` or ``DiffWave_GALR.pkl``.

        Args:
            file: A pickled file, read without running any code in it.
            config: Keys of the score network's configuration that its weights do not tell.
            dtype: Type of the weights, float32 if not given.
            torch_dtype: The older name of ``dtype``.
            **components: Components to use instead of those in the file.

        Raises:
            CheckpointError: If the file is missing, damaged or holds something else.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        path = Path(file)
        kind = one_dtype(dtype, torch_dtype)
        needs_file = not {"diffwave", "schedule_network"} <= components.keys()
        found = read_single_file(path) if needs_file else {}
        if "diffwave" not in components:
            components["diffwave"] = DiffWaveModel.from_weights(
                found, path, config=config or {}, dtype=kind
            )
        if "schedule_network" not in components:
            has_one = any(key.startswith(SCHEDULE_PREFIX) for key in found)
            components["schedule_network"] = (
                GALRModel.from_weights(found, path, dtype=kind) if has_one else None
            )
        if "scheduler" not in components:
            components["scheduler"] = _authors_scheduler(path)
        return cls(**components)

    @torch.no_grad()
    def __call__(
        self,
        mel_spectrogram: Spectrograms,
        num_inference_steps: int | None = None,
        *,
        schedule: ScheduleLike | None = None,
        method: str = "ddpm",
        generator: Generators = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> AudioPipelineOutput | tuple[Any]:
        """Make waveforms.

        Args:
            mel_spectrogram: ``[num_mels, frames]`` or ``[B, num_mels, frames]``, as
                :func:`septet.audio.log_mel_spectrogram` makes them with
                ``diffwave.settings.mel``; or a list of ``[num_mels, frames]`` of different
                lengths, each of which gives what it would give alone.
            num_inference_steps: See :meth:`BDDMScheduler.set_timesteps`, as for the next two.
                None takes the scheduler's own schedule.
            schedule: The same.
            method: The same.
            generator: A ``torch.Generator``, a list of one per spectrogram, or
                :class:`septet.PhiloxSeeds`.
            output_type: "pt" or "np".
            return_dict: Whether to return an object instead of a tuple.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`.

        Returns:
            The waveforms.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        check_choice("output_type", output_type, AUDIO_OUTPUT_TYPES)
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        mel, frames = collate(mel_spectrogram, self.diffwave.settings.num_mels)
        check_generator(generator, len(frames), self.device)
        self.scheduler.set_timesteps(num_inference_steps, schedule=schedule, method=method)
        samples = tuple(self.diffwave.settings.hop_length * count for count in frames)
        mel = mel.to(self.device, self.dtype)
        audios: Any = self._vocode(mel, frames, generator, callback_on_step_end, names)
        if output_type == "np":
            audios = audios.float().cpu().numpy()
        if not return_dict:
            return (audios,)
        return AudioPipelineOutput(audios, samples, self.sampling_rate)

    def _vocode(
        self,
        mel: Tensor,
        frames: tuple[int, ...],
        generator: Generators,
        callback: PipelineCallback | None,
        names: Sequence[str],
    ) -> Tensor:
        """Run the loop; spectrograms of different lengths draw noise of their own length."""
        settings, table = self.diffwave.settings, self.scheduler.table()
        counts = [settings.hop_length * count for count in frames]
        shape = (len(frames), settings.in_channels, max(counts))
        timesteps = torch.tensor(table.timesteps, device=self.device)
        if len(set(frames)) == 1:
            prepared = self.diffwave.prepare(timesteps, mel)
            sample = randn_tensor(shape, generator, self.device, self.dtype)
            return self._sample(table, prepared, sample, generator, callback, names)
        prepared = self.diffwave.prepare(timesteps, mel, torch.tensor(frames))
        noise = RaggedNoise(generator, counts, shape, self.device, self.dtype)
        result = self._sample(
            table, prepared, noise(), generator, callback, names, draw=noise, mask=noise.mask
        )
        noise.close()
        return result

    @torch.no_grad()
    def search_schedules(
        self,
        mel_spectrogram: Tensor,
        judge: Judge,
        *,
        max_steps: int = 12,
        bins: int = 9,
        attempts: int = 10,
        seed: int = 0,
    ) -> dict[int, SearchResult]:
        """Search for short noise schedules with the schedule network.

        Args:
            mel_spectrogram: ``[num_mels, frames]`` of a recording.
            judge: Judges a waveform ``[samples]`` made from it, by one number or several; more is
                better. The authors compare with the recording by PESQ and STOI.
            max_steps: Steps of a schedule at most.
            bins: Values of alpha and beta at the noisiest step to try.
            attempts: Random tries near the best of these.
            seed: For these and for the noise.

        Returns:
            The best schedule for every number of steps that occurred.

        Raises:
            ValueError: If there is no schedule network, or an argument makes no sense.
        """
        if self.schedule_network is None:
            raise ValueError("the pipeline has no schedule_network to search with")
        check_int("max_steps", max_steps, 1, 1000)
        check_int("bins", bins, 1, 1000)
        check_int("attempts", attempts, 0, 1000)
        mel, frames = collate(mel_spectrogram, self.diffwave.settings.num_mels)
        if len(frames) != 1:
            raise ValueError(f"mel_spectrogram must be a single one, got {len(frames)}")
        mel = mel.to(self.device, self.dtype)
        shape = (1, 1, self.diffwave.settings.hop_length * frames[0])
        generator = torch.Generator().manual_seed(seed)
        network = self.schedule_network
        follower = ScheduleFollower(
            predict=lambda sample, timestep: self.diffwave(sample, timestep, mel).sample,
            next_beta=lambda sample, beta, variance: network(sample[:, 0], beta, variance),
            draw=lambda: randn_tensor(shape, generator, self.device, self.dtype),
            scheduler=self.scheduler,
            max_steps=max_steps,
        )
        search = ScheduleSearch(
            follower,
            lambda schedule: self(mel, schedule=schedule, generator=generator)[0][0, 0],
            judge,
        )
        return search.run(bins, attempts, seed)


def collate(spectrograms: Any, num_mels: int) -> tuple[Tensor, tuple[int, ...]]:
    """Bring spectrograms into one batch, zero beyond the end of a shorter one.

    Args:
        spectrograms: See :meth:`BDDMPipeline.__call__`.
        num_mels: How many bands they must have.

    Returns:
        ``[B, num_mels, frames]``, and the frames of each.

    Raises:
        ValueError: If there are none, or a shape is wrong.
    """
    batch = spectrograms
    if isinstance(batch, list | tuple):
        parts = [_as_spectrogram(part, num_mels, 2) for part in batch]
    else:
        tensor = _as_spectrogram(batch, num_mels, 3)
        parts = list(tensor) if tensor.ndim == 3 else [tensor]
    if not parts:
        raise ValueError("mel_spectrogram must hold at least one spectrogram")
    frames = tuple(part.shape[-1] for part in parts)
    mel = parts[0].new_zeros(len(parts), num_mels, max(frames))
    for row, part in zip(mel, parts, strict=True):
        row[:, : part.shape[-1]] = part
    return mel, frames


def _as_spectrogram(value: Any, num_mels: int, most_axes: int) -> Tensor:
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    if (
        not isinstance(tensor, Tensor)
        or not tensor.is_floating_point()
        or not 2 <= tensor.ndim <= most_axes
        or tensor.shape[-2] != num_mels
        or not tensor.numel()
    ):
        batched = f" or [B, {num_mels}, frames]" if most_axes == 3 else ""
        got = list(tensor.shape) if isinstance(tensor, Tensor) else type(value).__name__
        raise ValueError(
            f"mel_spectrogram must be floats of shape [{num_mels}, frames]{batched}, got {got}"
        )
    return tensor


def _authors_scheduler(path: Path) -> BDDMScheduler:
    """Make the scheduler of a file of the authors, whose settings it may hold."""
    config = read_training_config(path)
    names = {"T": "num_train_timesteps", "beta_0": "beta_start", "beta_T": "beta_end"}
    options = {names[key]: config[key] for key in names if key in config}
    try:
        scheduler = BDDMScheduler(**options)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return scheduler
