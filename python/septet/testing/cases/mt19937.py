"""Case rows of ``septet::mt19937_normal``."""

from __future__ import annotations

from typing import Any

import torch

from septet.ops.mt19937 import mt19937_normal
from septet.testing.cases import OpCase
from septet.testing.references import mt19937 as references


def _case(name: str, shape: tuple[int, ...], drawn: int = 0, seed: int = 1) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        torch.rand(drawn, generator=generator)
        return {"out": torch.zeros(shape, dtype=dtype), "state": generator.get_state()}

    return OpCase(
        "mt19937_normal",
        name,
        mt19937_normal,
        references.mt19937_normal,
        inputs,
        changed=("state",),
        dtypes=(torch.float32,),
        cuda=False,
    )


# A round of the generator is 624 words; `drawn` words of one are used up before the call.
CASES = [
    _case("one_block", (16,)),
    _case("tail", (2, 3, 5, 7), drawn=5),
    _case("odd_number_of_blocks", (48,), drawn=600),
    _case("within_a_round", (320,), drawn=300),
    _case("to_the_end_of_a_round", (624,), drawn=624),
    _case("tail_needs_a_round", (1247,), drawn=1, seed=2**63 - 1),
    _case("many_rounds", (3, 2003), drawn=17),
    _case("several_threads", (40001,), drawn=623),
]

# What the noise of a step takes; the benchmark's row.
LARGE = [_case("step_noise", (4, 3, 256, 256))]
