"""Group normalisation together with what always follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from septet.nn.activation import activation
from septet.ops.norm import group_norm_act

if TYPE_CHECKING:
    from torch import Tensor

# The activations of model configurations that the kernel knows; the others follow it.
_FUSED = {"silu": "silu", "swish": "silu", "mish": "mish"}


class GroupNormAct(nn.GroupNorm):
    """Group normalisation, then an optional scale and shift per channel, then an activation.

    These three are one module because they read and write the same memory: together they are
    one pass, apart they are three. The parameters are those of ``torch.nn.GroupNorm``.

    Args:
        num_groups: Number of groups; must divide ``num_channels``.
        num_channels: Channels of the input.
        eps: Added to the variance.
        act_fn: Name of the activation, None for none.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float, act_fn: str | None = None
    ) -> None:
        super().__init__(num_groups, num_channels, eps=eps)
        self.act_fn = act_fn
        name = (act_fn or "").lower()
        self._fused = _FUSED.get(name, "identity")
        self._act = activation(name) if name and name not in _FUSED else None

    def forward(
        self,
        input: Tensor,
        scale_shift: Tensor | None = None,
        mask: Tensor | None = None,
        rest: Tensor | None = None,
    ) -> Tensor:
        """Normalise.

        Args:
            input: ``[B, C, ...]``.
            scale_shift: ``[B or 1, 2 * C]``: the first C columns are the scale s, the others the
                shift t of ``y * (1 + s) + t``, applied after the affine parameters.
            mask: ``[B, 1, ...]``, multiplies the result.
            rest: ``[B, C', ...]``, further channels behind those of ``input``.

        Returns:
            A tensor like ``input``, with the channels of both.
        """
        hidden = group_norm_act(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            activation=self._fused,
            scale_shift=scale_shift,
            mask=mask if self._act is None else None,
            rest=rest,
        )
        if self._act is None:
            return hidden
        hidden = self._act(hidden)
        return hidden if mask is None else hidden * mask

    def extra_repr(self) -> str:
        """Describe the module the way ``torch.nn.GroupNorm`` does, with the activation."""
        return f"{super().extra_repr()}, act_fn={self.act_fn}"
