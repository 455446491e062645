"""What pipelines share that make images with DDPM, DDIM or PNDM, in pixels or in latents."""

from __future__ import annotations

from typing import Any, ClassVar

from septet.pipelines.base import DiffusionPipeline, as_scheduler
from septet.schedulers import DDIMScheduler, Scheduler, StepTable


def sample_size(config: Any) -> tuple[int | None, int | None]:
    """Return height and width of what a network with this configuration was trained on."""
    size = config.sample_size
    if size is None or isinstance(size, int):
        return size, size
    height, width = size
    return height, width


class ImagePipeline(DiffusionPipeline):
    """A pipeline whose scheduler is converted when it is assigned."""

    #: What the scheduler is converted to; None accepts all of septet's.
    scheduler_class: ClassVar[type[Scheduler] | None] = None

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler; assigning one of diffusers, or of another kind, converts it."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self._scheduler = as_scheduler(scheduler, self.scheduler_class)

    def _table(self, eta: float) -> StepTable:
        """Return the steps; ``eta`` is looked at by DDIM alone."""
        scheduler = self.scheduler
        return scheduler.table(eta) if isinstance(scheduler, DDIMScheduler) else scheduler.table()
