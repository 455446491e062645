"""A run of 1000 steps takes no more memory than one of 100."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import septet

STATUS = Path("/proc/self/status")
#: Images of 3x8x8: steps that kept one tensor each would need 11 MB from the 100th to the 990th.
BATCH = 16
MOST_GROWTH = 5_000_000


def memory():
    found = re.search(r"^VmRSS:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much memory is used")
def test_memory_is_constant_over_1000_steps(unet):
    pipe = septet.DDPMPipeline(unet, septet.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    used = {}

    def look(pipeline, step, timestep, tensors):
        if step in (100, 500, 990):
            used[step] = memory()
        return tensors

    generator = torch.Generator().manual_seed(0)
    pipe(BATCH, num_inference_steps=1000, generator=generator, callback_on_step_end=look)
    assert len(used) == 3
    assert max(used.values()) - used[100] < MOST_GROWTH, used
