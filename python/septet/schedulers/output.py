"""What a scheduler's ``step`` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from septet import ops
from septet.backend import current_backend


class SchedulerOutput:
    """The result of one step; ``output[0]`` is its first entry, as in diffusers.

    The estimate of the clean sample is computed when it is first read: most callers never do, and
    writing it would take a third of a step's time. Until then the output holds the step's
    arguments.

    Args:
        prev_sample: ``[B, C, ...]``, the sample at the next (less noisy) timestep.
        pred_original_sample: ``[B, C, ...]``, the clipped estimate of the clean sample, where the
            scheduler makes one, or what computes it.
    """

    __slots__ = ("_pred_original_sample", "prev_sample")

    def __init__(
        self,
        prev_sample: Tensor,
        pred_original_sample: Tensor | Callable[[], Tensor] | None = None,
    ) -> None:
        self.prev_sample = prev_sample
        self._pred_original_sample = pred_original_sample

    @property
    def pred_original_sample(self) -> Tensor | None:
        """The clipped estimate of the clean sample; None where the scheduler makes none.

        Raises:
            RuntimeError: If it has not been read before, and an argument of the step has been
                modified in place since.
        """
        value = self._pred_original_sample
        if value is not None and not isinstance(value, Tensor):
            value = self._pred_original_sample = value()
        return value

    def _names(self) -> tuple[str, ...]:
        """Return the names of the entries that are there."""
        names = ("prev_sample", "pred_original_sample")
        return names[:1] if self._pred_original_sample is None else names

    def to_tuple(self) -> tuple[Tensor, ...]:
        """Return the entries that are there."""
        return tuple(getattr(self, name) for name in self._names())

    def __getitem__(self, key: int | str) -> Tensor:
        """Return an entry by position or name."""
        value: Tensor = getattr(self, key if isinstance(key, str) else self._names()[key])
        return value

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack as a tuple."""
        return iter(self.to_tuple())

    def __reduce__(self) -> tuple[type[SchedulerOutput], tuple[Tensor, ...]]:
        """Copy and pickle the entries, not how they come about."""
        return type(self), self.to_tuple()

    def __repr__(self) -> str:
        """Show the entries."""
        entries = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names())
        return f"{type(self).__name__}({entries})"


class OriginalLater:
    """Computes a step's estimate of the clean sample later, with the bits it would have had then.

    Args:
        sample, model_output: Of the step. A write to one of them in place, through whatever view,
            raises its version and is found out; one that torch does not see, as through numpy, is
            not.
        table: ``[rows, 24]``, which never changes.
        row: Of the step.
        adds_noise: Whether the row adds noise.
        threshold: ``[B]``, of the step, which nobody else has.
    """

    __slots__ = ("_arguments", "_options", "_versions")

    def __init__(
        self,
        sample: Tensor,
        model_output: Tensor,
        table: Tensor,
        row: int,
        adds_noise: bool,
        threshold: Tensor | None,
    ) -> None:
        self._arguments = (sample, model_output, table, row)
        self._options = (adds_noise, threshold)
        self._versions = (sample._version, model_output._version)

    def __call__(self) -> Tensor:
        """Return the estimate.

        Raises:
            RuntimeError: If an argument is no longer what it was.
        """
        sample, model_output, _, _ = self._arguments
        for name, tensor, version in zip(
            ("sample", "model_output"), (sample, model_output), self._versions, strict=True
        ):
            if tensor._version != version:
                raise RuntimeError(
                    "pred_original_sample is computed when it is first read, but since the step "
                    f"{name} has been modified in place; read it before that"
                )
        adds_noise, threshold = self._options
        # noise changes only the next sample, which is there already; any will do
        noise = sample if adds_noise else None
        with torch.no_grad():
            _, original = ops.step(
                *self._arguments, pred_original_sample=True, noise=noise, threshold=threshold
            )
        return original


def may_wait(sample: Tensor, model_output: Tensor) -> bool:
    """Tell whether the estimate of the clean sample may be computed later.

    Not where gradients flow, since it belongs into the graph of the step; not for inference
    tensors, which do not count their versions; and not where it comes for free.
    """
    if ops.needs_gradient(sample, model_output):
        return False
    if sample.is_inference() or model_output.is_inference():
        return False
    return current_backend() != "eager" and not torch.compiler.is_compiling()
