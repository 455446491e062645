"""The samplers: each is a configuration and a function that fills a table of coefficients."""

from septet.schedulers.base import Scheduler, SchedulerOutput
from septet.schedulers.ddim import DDIMScheduler
from septet.schedulers.ddpm import DDPMScheduler
from septet.schedulers.glide import GLIDEScheduler
from septet.schedulers.pndm import PNDMScheduler
from septet.schedulers.table import StepTable

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "GLIDEScheduler",
    "PNDMScheduler",
    "Scheduler",
    "SchedulerOutput",
    "StepTable",
]
