"""The search for a schedule tries schedules, from whichever published one it starts."""

from __future__ import annotations

import random

import pytest

from septet.schedulers import PUBLISHED_SCHEDULES, BDDMScheduler, NoiseSchedule
from vocoder_schedule import moved


@pytest.mark.parametrize("name", PUBLISHED_SCHEDULES)
@pytest.mark.parametrize("spread", [0.5, 0.1])
def test_moves_lead_to_schedules(name, spread):
    betas, draw = list(NoiseSchedule.published(name).betas), random.Random(0)
    tries = [moved(betas, spread, draw) for _ in range(50)]
    found = [candidate for candidate in tries if candidate is not None]
    assert len(found) > 40
    for candidate in found:
        assert len(BDDMScheduler().resolve_schedule(candidate)) == len(betas)
        assert candidate != betas
