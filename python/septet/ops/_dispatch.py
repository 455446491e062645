"""How a Python face reaches its kernel, or its reference."""

from __future__ import annotations

from typing import Any

import torch

from septet.backend import current_backend
from septet.ops import _library


def run(operator: Any, *arguments: Any) -> None:
    """Call a compiled op; its complaints about arguments become ``ValueError``.

    The stable ABI knows one exception type only. Messages that begin with ``septet.`` are our own
    argument checks; anything else is a fault and stays a ``RuntimeError``.
    """
    try:
        operator(*arguments)
    except NotImplementedError as error:
        raise _library.no_kernel(error) from None
    except RuntimeError as error:
        message = str(error).split("\n", 1)[0]
        start = message.find("septet.")
        if start < 0:
            raise
        raise ValueError(message[start:]) from None


def wants_reference(*tensors: torch.Tensor | None) -> bool:
    """Tell whether the plain-torch reference must run: asked for, or gradients are needed."""
    return current_backend() == "eager" or needs_gradient(*tensors)


def needs_gradient(*tensors: torch.Tensor | None) -> bool:
    """Tell whether what is made of these tensors belongs into a graph."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # any() with a generator takes longer than some kernels
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself if it is dense in a layout the kernels read, else a copy."""
    if tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    ):
        return tensor
    return tensor.contiguous()


def like(tensor: torch.Tensor | None, model: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor in the memory layout of ``model``; it may have twice the channels."""
    if tensor is None or tensor.stride() == model.stride():
        return tensor
    if model.is_contiguous():
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last)
