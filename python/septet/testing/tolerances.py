"""One rule for how close a kernel must be (docs/numerics.md)."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_accurate(
    actual: Tensor, reference: Tensor, exact: Tensor, single: bool = False
) -> None:
    """Assert that a kernel is as accurate as plain torch in the same dtype.

    float32 and float64 must be close to the exact result at ``torch.testing``'s defaults. Half
    precision may err at most twice as much as plain torch does, plus one unit in the last place of
    the largest value: a bound that calibrates itself (the rule of flash-attention's tests).

    Args:
        actual: The kernel's result.
        reference: The plain-torch result in the same dtype.
        exact: The result computed in float64 from the same (already rounded) inputs.
        single: The op has float32 precision even where its result is float64.

    Raises:
        AssertionError: If it is not.
    """
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, not {tuple(exact.shape)}"
    assert actual.dtype == reference.dtype, f"dtype {actual.dtype}, not {reference.dtype}"
    if actual.numel() == 0:
        return
    if actual.dtype in (torch.float32, torch.float64):
        precision = torch.float32 if single else actual.dtype
        torch.testing.assert_close(actual.to(precision), exact.to(precision), equal_nan=True)
        return
    finite = exact.isfinite()
    assert torch.equal(actual[~finite].double().nan_to_num(), exact[~finite].nan_to_num())
    error = (actual.double() - exact)[finite].abs().max()
    allowed = 2 * (reference.double() - exact)[finite].abs().max()
    ulp = torch.finfo(actual.dtype).eps * exact[finite].abs().max()
    assert error <= allowed + ulp, f"error {error:.3g} exceeds {allowed:.3g} + {ulp:.3g}"


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ``max|a - b| / max|b|`` in float64.

    Raises:
        AssertionError: If the shapes differ.
    """
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    actual, expected = actual.detach(), expected.detach()
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())
