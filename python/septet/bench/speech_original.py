"""The originals of BDDM and Grad-TTS, made to run on a CPU with today's torch.

What they compute is untouched. Both are imported inside functions: the process must have called
:meth:`septet.bench.originals.Original.put_first`, and can then import no other diffusers.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from septet.bench.originals import DIFFUSERS, GRAD_TTS


def bddm(weights: Mapping[str, Tensor], config: Mapping[str, Any], schedule: Any) -> Any:
    """Make the BDDM pipeline of diffusers 0.0.4.

    Args:
        weights: Of a :class:`septet.models.DiffWaveModel`.
        config: The arguments of the original network.
        schedule: A :class:`septet.schedulers.NoiseSchedule`.

    Returns:
        The pipeline, called with ``mel_spectrogram`` and ``generator``.
    """
    DIFFUSERS.put_first()
    os.environ["TQDM_DISABLE"] = "1"
    # gone from huggingface_hub, and not needed without a download
    importlib.import_module("huggingface_hub").cached_download = None  # type: ignore[attr-defined]
    # the embedding of the step moves to CUDA, whatever the device of the network
    torch.Tensor.cuda = lambda self, *_args, **_options: self  # type: ignore[method-assign]
    module: Any = importlib.import_module("diffusers.pipelines.pipeline_bddm")
    schedulers: Any = importlib.import_module("diffusers.schedulers.scheduling_ddpm")
    network = module.DiffWave(**config)
    network.load_state_dict(with_weight_norm(weights, network.state_dict()))
    scheduler = schedulers.DDPMScheduler(
        timesteps=len(schedule),
        trained_betas=list(schedule.betas),
        timestep_values=list(schedule.timesteps),
        clip_predicted_image=False,
    )
    return module.BDDM(network.eval(), scheduler)


def with_weight_norm(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Split weights into direction and length where a network expects that.

    Args:
        weights: The folded weights.
        expected: The keys that the network has, those of torch's older weight normalisation.
    """
    found = {}
    for key in expected:
        if key.endswith("weight_v"):
            found[key] = weights[key.removesuffix("_v")]
        elif key.endswith("weight_g"):
            weight = weights[key.removesuffix("_g")]
            found[key] = torch.linalg.vector_norm(
                weight, dim=tuple(range(1, weight.ndim)), keepdim=True
            )
        else:
            found[key] = weights[key]
    return found


def grad_tts(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> nn.Module:
    """Make the authors' network for one speaker.

    Args:
        encoder: Weights of a :class:`septet.models.GradTTSTextEncoder`.
        decoder: Weights of a :class:`septet.models.UNetGradTTSModel`.

    Returns:
        The network, called with ids, their number, and the number of steps.
    """
    GRAD_TTS.put_first()
    # for training only, and built for another numpy
    _replace("grad_tts.model.monotonic_align", maximum_path=None)
    _replace("pkg_resources", resource_filename=None, resource_string=None)
    module: Any = importlib.import_module("grad_tts.model.tts")
    network: nn.Module = module.GradTTS(n_spks=1)
    prefixed = {f"encoder.{key}": value for key, value in encoder.items()}
    prefixed |= {f"decoder.estimator.{key}": value for key, value in decoder.items()}
    network.load_state_dict(prefixed)
    return network.eval()


def _replace(name: str, **attributes: Any) -> None:
    """Stand in for a module that cannot be imported any more."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
