"""The one sampling loop that all pipelines use: predict, then apply a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from septet import ops
from septet.backend import current_backend
from septet.capture import DeviceNoise, NotCapturable, StepGraphs, device_noise
from septet.random import Generators, PhiloxSeeds, check_generator, randn_leading, words_per_draw
from septet.schedulers.table import StepTable


class PreparedModel(Protocol):
    """A network whose timesteps are known, as ``model.prepare(timesteps)`` returns it."""

    def __call__(self, sample: Tensor, row: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output at step ``row``, or the pair (conditional, unconditional output).

        A network of septet also takes the row as a tensor with one integer, on its device.
        """


class StepCallback(Protocol):
    """What a loop calls after every step."""

    def __call__(self, row: int, timestep: float, tensors: dict[str, Tensor]) -> Tensor | None:
        """Look at the tensors named in ``callback_tensors``; return a new sample or None."""


class SamplingLoop:
    """Runs a sampler table from a starting sample to the end.

    The loop itself never waits for the device. It keeps no state between runs and changes none
    but the generator's, so it can be interrupted anywhere.

    Args:
        table: The coefficients of the steps.
        generator: Where noise comes from. A ``torch.Generator`` is drawn from in the order and
            with the values of diffusers, in every row that adds noise; :class:`PhiloxSeeds` are
            evaluated inside the step, with the values that drawing them in that order gives.
        draw: Returns noise of the sample's shape, instead of ``generator``, for what that cannot
            say, such as samples of different lengths.
        progress: Wraps the iteration over the rows, to show it.
        callback: Called after every step.
        callback_tensors: What the callback is shown: "sample" (after the step), "model_output",
            "pred_original_sample".
        interrupted: Asked before every step; once it is true the sample is returned as it is.
        noise_copies: For how many copies of the batch a torch generator draws, of which the first
            is used; see :func:`septet.random.randn_leading`.
        graphs: Keeps whole steps as CUDA graphs; None to run every step anew. The results are the
            same bits. Why a run is not captured, ``graphs.reason`` says.
    """

    def __init__(
        self,
        table: StepTable,
        *,
        generator: Generators = None,
        draw: Callable[[], Tensor] | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
        callback: StepCallback | None = None,
        callback_tensors: Iterable[str] = ("sample",),
        interrupted: Callable[[], bool] | None = None,
        noise_copies: int = 1,
        graphs: StepGraphs | None = None,
    ) -> None:
        self.table = table
        self.generator = generator
        self.draw = draw
        self.progress = progress
        self.callback = callback
        self.callback_tensors = tuple(callback_tensors) if callback else ()
        self.interrupted = interrupted
        self.noise_copies = noise_copies
        self.graphs = graphs

    @torch.no_grad()
    def __call__(
        self,
        model: PreparedModel,
        sample: Tensor,
        mu: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Sample.

        Args:
            model: What predicts, called once per row.
            sample: ``[B, C, ...]``, the starting noise.
            mu: ``[B, C, ...]``, prior mean, for tables that use one.
            mask: ``[B, 1, ...]``, multiplies every sample.

        Returns:
            ``[B, C, ...]``.

        Raises:
            ValueError: If the generator does not suit the batch, the callback returns a sample
                of another shape, or the model's output does not fit.
        """
        check_generator(self.generator, sample.shape[0], sample.device)
        captured = self._captured_run(model, sample, mu, mask)
        if captured is not None:
            return captured
        wants_original = "pred_original_sample" in self.callback_tensors
        options: dict[str, Any] = {
            "mu": mu,
            "mask": mask,
            "slots": self.table.new_slots(sample),
            "pred_original_sample": wants_original,
        }
        coefficients = self.table.on(sample)
        draw_noise = self._noise_source(sample)
        for row in self.progress(range(len(self.table))):
            if self.interrupted is not None and self.interrupted():
                break
            output = model(sample, row)
            output, uncond = output if isinstance(output, tuple) else (output, None)
            if self.table.adds_noise(row):
                options.update(draw_noise(row))
            if self.table.dynamic_threshold is not None:
                options["threshold"] = self.table.threshold(row, sample, output, uncond)
            options["uncond_output"] = uncond
            result: Any = ops.step(sample, output, coefficients, row, **options)
            sample, original = result if wants_original else (result, None)
            if self.callback is not None:
                tensors = {"sample": sample, "model_output": output}
                tensors |= {} if original is None else {"pred_original_sample": original}
                shown = {name: tensors[name] for name in self.callback_tensors}
                sample = _replaced(sample, self.callback(row, self.table.timesteps[row], shown))
        return sample

    def _captured_run(
        self, model: PreparedModel, sample: Tensor, mu: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """Sample with captured steps, or return None where that is not possible."""
        graphs = self.graphs
        if graphs is None or not graphs.enabled or sample.device.type != graphs.device_type:
            return None
        if current_backend() == "eager" or sample.numel() == 0:
            return None
        try:
            noise = self._device_noise(sample)
            steps = self._start(graphs, model, sample, noise, mu=mu, mask=mask)
        except NotCapturable as reason:
            graphs.refuse(str(reason))
            return None
        for row in self.progress(range(len(self.table))):
            if self.interrupted is not None and self.interrupted():
                break
            sample = next(steps)
            if noise is not None and self.table.adds_noise(row):
                noise.advance(row + 1)
        return sample.clone()  # the graph writes there again

    def _device_noise(self, sample: Tensor) -> DeviceNoise | None:
        """Return the noise of a captured run; NotCapturable says what needs the host."""
        if self.callback is not None:
            raise NotCapturable("a callback sees every step")
        if self.draw is not None:
            raise NotCapturable("noise is drawn by a function")
        if self.table.dynamic_threshold is not None:
            raise NotCapturable("dynamic thresholding takes its row from the host")
        draws = [self.table.adds_noise(row) for row in range(len(self.table))]
        return device_noise(self.generator, sample, draws, self.noise_copies)

    @torch.no_grad()
    def captured_steps(self, model: PreparedModel, sample: Tensor) -> Iterator[Tensor]:
        """Return an endless iterator over the samples after captured steps, without noise.

        For those who time a step. Each sample is overwritten by the next one.

        Raises:
            NotCapturable: If it has to be captured and cannot.
        """
        if self.graphs is None:
            raise NotCapturable("there are no graphs to keep it in")
        return self._start(self.graphs, model, sample, None)

    def _start(
        self,
        graphs: StepGraphs,
        model: PreparedModel,
        sample: Tensor,
        noise: DeviceNoise | None,
        **options: Tensor | None,
    ) -> Iterator[Tensor]:
        """Return an iterator over the samples after each step."""
        if noise is not None:
            options["philox"] = noise.pairs.to(sample.device)
        sources = {
            "model": model,
            "coefficients": self.table.on(sample),
            "slots": self.table.new_slots(sample),
            "increment": 0 if noise is None else noise.increment,
            "threads": 0 if noise is None else noise.threads,
            "options": options,
        }
        return graphs.start(sources, sample, _device_step)

    def _noise_source(self, sample: Tensor) -> Callable[[int], dict[str, Any]]:
        """Return a function from a row to the arguments that give a step its noise."""
        generator, draw = self.generator, self.draw
        if draw is not None:
            return lambda _row: {"noise": draw()}
        if not isinstance(generator, PhiloxSeeds):
            return lambda _row: {
                "noise": randn_leading(
                    sample.shape,
                    generator,
                    sample.device,
                    sample.dtype,
                    copies=self.noise_copies,
                )
            }
        words = words_per_draw(sample[0].numel())
        start = generator.offset
        philox = generator.advance(0).to(sample.device)

        def reserve(row: int) -> dict[str, Any]:
            generator.offset = start + (row + 1) * words
            return {"philox": philox, "philox_increment": words}

        return reserve


def _device_step(sources: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the body of the loop with the row on the device: it never needs the host."""

    def step(sample: Tensor, row: Tensor) -> Tensor:
        output = sources["model"](sample, row)
        output, uncond = output if isinstance(output, tuple) else (output, None)
        result = ops.step(
            sample,
            output,
            sources["coefficients"],
            counter=row,
            uncond_output=uncond,
            slots=sources["slots"],
            philox_increment=sources["increment"],
            philox_threads=sources["threads"],
            **sources["options"],
        )
        assert isinstance(result, Tensor)
        return result

    return step


def _replaced(sample: Tensor, replacement: Tensor | None) -> Tensor:
    """Return the sample a callback asks for, in the layout, type and place of the old one."""
    if replacement is None or replacement is sample:
        return sample
    if replacement.shape != sample.shape:
        raise ValueError(
            f"the callback must return a sample of shape {list(sample.shape)}, got "
            f"{list(replacement.shape)}"
        )
    return torch.empty_like(sample).copy_(replacement)
