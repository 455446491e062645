"""A stand-in for CUDA graphs: whatever a replay would do to memory, without a device."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from septet.capture import StepGraphs


class PretendGraphs(StepGraphs):
    """Treats the CPU as the device. A "graph" runs the step again, on the tensors of its capture.

    Attributes:
        captures: How many steps have been captured.
        fail: Makes a capture fail.
    """

    device_type = "cpu"

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.captures = 0
        self.fail = False

    def capture(self, step):
        if self.fail:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        return step

    def warm_up(self, step, _device):
        step()


#: What reads a value of a tensor, or the number of its non-zero elements, on the host.
WAITING = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
}


class NeverWaits(TorchDispatchMode):
    """Refuses every op that makes the host wait for a CUDA device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
        output_size = (kwargs or {}).get("output_size")
        if by_mask or (name in WAITING and output_size is None):
            raise AssertionError(f"{function} makes the host wait")
        return function(*args, **(kwargs or {}))


class Watched(PretendGraphs):
    """Watches the captured step."""

    def capture(self, step):
        replay = super().capture(step)

        def watched():
            with NeverWaits():
                replay()

        return watched
