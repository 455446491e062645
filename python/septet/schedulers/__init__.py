"""The samplers: each is a configuration and a function that fills a table of coefficients."""

from septet.schedulers.base import Scheduler
from septet.schedulers.bddm import BDDMScheduler
from septet.schedulers.ddim import DDIMScheduler
from septet.schedulers.ddpm import DDPMScheduler
from septet.schedulers.glide import GLIDEScheduler
from septet.schedulers.grad_tts import GradTTSScheduler
from septet.schedulers.noise_schedule import PUBLISHED_SCHEDULES, NoiseSchedule
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.pndm import PNDMScheduler
from septet.schedulers.table import StepTable

__all__ = [
    "PUBLISHED_SCHEDULES",
    "BDDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "GLIDEScheduler",
    "GradTTSScheduler",
    "NoiseSchedule",
    "PNDMScheduler",
    "Scheduler",
    "SchedulerOutput",
    "StepTable",
]
