"""Text to speech by Grad-TTS (Popov et al. 2021), with any vocoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from septet.checkpoints import read_single_file
from septet.config import check_bool, check_choice, check_int, check_number
from septet.models import GradTTSTextEncoder, UNetGradTTSModel
from septet.models.base import one_dtype
from septet.pipelines.audio_output import AUDIO_OUTPUT_TYPES
from septet.pipelines.base import DiffusionPipeline, PipelineCallback
from septet.pipelines.grad_tts_alignment import align
from septet.pipelines.loading import check_names
from septet.pipelines.output import PipelineOutput
from septet.pipelines.vocoding import check_vocoder, sampling_rate, vocode
from septet.random import Generators, PhiloxSeeds, check_generator, randn_tensor
from septet.schedulers import GradTTSScheduler
from septet.text import GradTTSTokenizer

if TYPE_CHECKING:
    import os

    from septet.schedulers import StepTable

PipelineT = TypeVar("PipelineT", bound="GradTTSPipeline")

NOISE_LAYOUTS = ("original", "contiguous")
#: What the authors' notebook and diffusers used for the 247 speakers of Libri-TTS.
_USUAL_SPEAKER = 15


@dataclass(frozen=True, eq=False)
class GradTTSPipelineOutput(PipelineOutput):
    """The speech of one call; ``output[0]`` and ``output["mel_spectrograms"]`` work too.

    Tensors on the pipeline's device for output type "pt", float32 arrays for "np".

    Attributes:
        mel_spectrograms: ``[B, num_mels, T]``, natural log of amplitude; zero after a text's end.
        audios: Per text a waveform ``[samples]`` in [-1, 1], None without a vocoder.
        lengths: Frames of each text.
        alignments: ``[B, L, T]``, 1 where a symbol (blanks included) owns a frame.
        prior_means: ``[B, num_mels, T]``, the spectrogram that the text encoder alone suggests.
        sampling_rate: Samples per second, None without a vocoder.
    """

    mel_spectrograms: Any
    audios: list[Any] | None
    lengths: list[int]
    alignments: Any
    prior_means: Any
    sampling_rate: int | None


class GradTTSPipeline(DiffusionPipeline):
    """Speaks.

    Args:
        unet: The decoder.
        text_encoder: Predicts mean spectra and durations of symbols.
        scheduler: The solver.
        tokenizer: Turns a text into a list of ids.
        vocoder: Turns spectrograms into waveforms: a :class:`septet.models.HiFiGANModel`, a
            ``BDDMPipeline``, or None for spectrograms only.

    Raises:
        ValueError: If a component is of the wrong kind, or does not fit the others.
    """

    component_names: ClassVar[tuple[str, ...]] = (
        "unet",
        "text_encoder",
        "scheduler",
        "tokenizer",
        "vocoder",
    )
    optional_components: ClassVar[frozenset[str]] = frozenset({"vocoder"})
    _callback_tensor_inputs: ClassVar[tuple[str, ...]] = ("latents", "sample", "model_output")

    def __init__(
        self,
        unet: UNetGradTTSModel,
        text_encoder: GradTTSTextEncoder,
        scheduler: GradTTSScheduler,
        tokenizer: Any,
        vocoder: Any = None,
    ) -> None:
        super().__init__()
        for name, part, wanted in (
            ("unet", unet, UNetGradTTSModel),
            ("text_encoder", text_encoder, GradTTSTextEncoder),
            ("scheduler", scheduler, GradTTSScheduler),
        ):
            if not isinstance(part, wanted):
                raise ValueError(f"{name} must be a {wanted.__name__}, got {type(part).__name__}")
        if not callable(tokenizer):
            raise ValueError(f"tokenizer must be callable, got {type(tokenizer).__name__}")
        bins = unet.config.n_feats
        if text_encoder.config.n_feats != bins:
            raise ValueError(
                f"text_encoder must have as many mel bins as unet, got n_feats "
                f"{text_encoder.config.n_feats} and {bins}"
            )
        check_vocoder(vocoder, bins)
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.vocoder = vocoder

    @torch.no_grad()
    def __call__(
        self,
        text: str | Sequence[str],
        num_inference_steps: int = 50,
        temperature: float = 1.3,
        length_scale: float = 0.91,
        speaker_id: int | Sequence[int] | None = None,
        stochastic: bool = False,
        generator: Generators = None,
        noise_layout: str = "original",
        output_type: str = "pt",
        return_dict: bool = True,
        vocoder_options: Mapping[str, Any] | None = None,
        callback_on_step_end: PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> GradTTSPipelineOutput | tuple[Any, ...]:
        """Speak texts.

        The spectrogram of a text depends a little on the others of its batch: the decoder
        normalises over the padding too, as the authors' does.

        Args:
            text: A sentence, or several.
            num_inference_steps: Steps of the solver; 10 do well, 50 are the authors' usual.
            temperature: Divides the noise that the spectrogram starts from; above 0.
            length_scale: Above 1 is slower; above 0.
            speaker_id: For networks of several speakers: which one, or one per text. None is 15
                as in the authors' examples, or 0 where there are fewer.
            stochastic: Whether to solve the stochastic equation instead of the ordinary one.
            generator: A ``torch.Generator``, a list of one per text, or
                :class:`septet.PhiloxSeeds`; the vocoder goes on with it if it needs noise.
            noise_layout: Order in which the first noise is drawn: "original" is that of the
                authors' code, frame by frame; "contiguous" that of diffusers 0.1, bin by bin.
            output_type: "pt" or "np", see :class:`GradTTSPipelineOutput`.
            return_dict: Whether to return an object instead of a tuple of its entries.
            vocoder_options: Arguments for a vocoder that is a pipeline.
            callback_on_step_end: See :meth:`DDPMPipeline.__call__`.
            callback_on_step_end_tensor_inputs: See :meth:`DDPMPipeline.__call__`; there is no
                "pred_original_sample" here.

        Raises:
            ValueError: If an argument makes no sense; the message names it.
        """
        check_number("temperature", temperature, 1e-6)
        check_number("length_scale", length_scale, 1e-6)
        check_bool("stochastic", stochastic)
        check_choice("noise_layout", noise_layout, NOISE_LAYOUTS)
        check_choice("output_type", output_type, AUDIO_OUTPUT_TYPES)
        names = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        texts = [text] if isinstance(text, str) else text
        ids = self._tokenize(texts)
        speakers = self._speakers(speaker_id, len(ids))
        check_generator(generator, len(ids), self.device)
        self.scheduler.set_timesteps(num_inference_steps)
        table = self.scheduler.table(stochastic)

        padded = nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True)
        counts = torch.tensor([len(i) for i in ids])
        encoded = self.text_encoder(padded.to(self.device), counts.to(self.device))
        alignment = align(
            encoded.log_durations,
            encoded.mask,
            length_scale=length_scale,
            multiple=self.unet.frame_multiple,
        )
        mu = (encoded.mu @ alignment.path).to(self.dtype)
        noise = _first_noise(mu, generator, noise_layout)
        sample = (mu + noise / temperature) * alignment.mask
        prepared = self._prepare(table, mu, alignment.mask, speakers)
        sample = self._sample(
            table,
            prepared,
            sample,
            generator,
            callback_on_step_end,
            names,
            mu=mu,
            mask=alignment.mask,
        )
        longest = max(alignment.lengths)
        mel = sample[:, :, :longest]
        mels = [one[:, :length] for one, length in zip(mel, alignment.lengths, strict=True)]
        output = GradTTSPipelineOutput(
            mel,
            vocode(self.vocoder, mels, generator, vocoder_options),
            alignment.lengths,
            alignment.path[:, :, :longest],
            mu[:, :, :longest],
            sampling_rate(self.vocoder),
        )
        if output_type == "np":
            output = _on_host(output)
        return output if return_dict else output.to_tuple()

    @classmethod
    def from_single_file(
        cls: type[PipelineT],
        file: str | os.PathLike[str],
        *,
        pe_scale: float = 1000,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> PipelineT:
        """Load both networks from the authors' ``grad-tts.pt``.

        Args:
            file: The file.
            pe_scale: Scale of the times, which the file does not tell: 1000, but 1 for
                ``grad-tts-old.pt``.
            dtype: Type of the weights, float32 if not given.
            torch_dtype: The older name of ``dtype``.
            **components: Components to use instead, or a ``vocoder``. By default the scheduler
                and the tokenizer are those of the authors.

        Raises:
            CheckpointError: If the file is missing, damaged or does not suit.
            ValueError: If an argument is unknown or makes no sense.
        """
        check_names(components, cls.component_names, cls.__name__)
        chosen = one_dtype(dtype, torch_dtype)
        made = dict(components)
        path = Path(file)
        needs_file = not {"text_encoder", "unet"} <= made.keys()
        found = read_single_file(path) if needs_file else {}
        if "text_encoder" not in made:
            made["text_encoder"] = GradTTSTextEncoder.from_weights(found, path, dtype=chosen)
        if "unet" not in made:
            settings = {"n_feats": made["text_encoder"].config.n_feats, "pe_scale": pe_scale}
            made["unet"] = UNetGradTTSModel.from_weights(found, path, config=settings, dtype=chosen)
        made.setdefault("scheduler", GradTTSScheduler())
        made.setdefault("tokenizer", GradTTSTokenizer())
        return cls(**made)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of all texts.

        Raises:
            ValueError: If there is no text, or one that cannot be read.
        """
        if not isinstance(texts, Sequence) or not texts:
            raise ValueError(f"text must be a string or a list of at least one, got {texts!r}")
        largest = self.text_encoder.config.n_vocab - 1
        all_ids = []
        for index, text in enumerate(texts):
            try:
                ids = list(self.tokenizer(text))
            except ValueError as error:
                raise ValueError(f"text {index} cannot be read: {error}") from error
            if not ids or max(ids) > largest:
                raise ValueError(
                    f"tokenizer must give ids from 0 to {largest}, as text_encoder knows them, got "
                    f"{max(ids, default='none')} for text {index}"
                )
            all_ids.append(ids)
        return all_ids

    def _speakers(self, speaker_id: int | Sequence[int] | None, batch: int) -> Tensor | None:
        """Return ``[B]`` speakers, None for a network of one.

        Raises:
            ValueError: If a speaker is unknown, or they are not as many as texts.
        """
        count = self.unet.config.n_spks or 1
        if speaker_id is None:
            speaker_id = _USUAL_SPEAKER if count > _USUAL_SPEAKER else 0
        speakers = list(speaker_id) if isinstance(speaker_id, Sequence) else [speaker_id] * batch
        if len(speakers) != batch:
            raise ValueError(
                f"speaker_id must be one number or one per text, got {len(speakers)} for {batch}"
            )
        for speaker in speakers:
            check_int("speaker_id", speaker, 0, count - 1)
        return torch.tensor(speakers) if count > 1 else None

    def _prepare(self, table: StepTable, mu: Tensor, mask: Tensor, speakers: Tensor | None) -> Any:
        times = torch.tensor(table.timesteps, dtype=torch.float32, device=mu.device)
        return self.unet.prepare(times, mu, mask, speakers)


def _first_noise(mu: Tensor, generator: Generators, layout: str) -> Tensor:
    """Draw ``[B, C, T]`` standard normal noise.

    The authors draw with ``randn_like`` of a transposed tensor. torch fills such a tensor in the
    order of its memory, frame by frame, and one number at a time, which gives others than a
    contiguous one gets; with the same strides we get the same.
    """
    if layout == "contiguous" or isinstance(generator, PhiloxSeeds):
        return randn_tensor(mu.shape, generator, mu.device, mu.dtype)
    batch, channels, frames = mu.shape
    if isinstance(generator, Sequence):
        parts = [_first_noise(mu[i : i + 1], one, layout) for i, one in enumerate(generator)]
        return torch.cat(parts)
    device = mu.device if generator is None else generator.device
    empty = torch.empty((batch, frames, channels), dtype=mu.dtype, device=device)
    return empty.transpose(1, 2).normal_(generator=generator).to(mu.device)


def _on_host(output: GradTTSPipelineOutput) -> GradTTSPipelineOutput:
    """Turn tensors into float32 arrays."""
    audios = output.audios
    return replace(
        output,
        mel_spectrograms=output.mel_spectrograms.float().cpu().numpy(),
        audios=None if audios is None else [audio.float().cpu().numpy() for audio in audios],
        alignments=output.alignments.float().cpu().numpy(),
        prior_means=output.prior_means.float().cpu().numpy(),
    )
