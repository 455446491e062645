"""Scheduler configurations: complete, read-only, and understood by the other schedulers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch

from septet.config import FrozenConfig
from septet.schedulers.timesteps import SPACINGS

P = ParamSpec("P")
S = TypeVar("S")

#: Key under which a configuration lists the keys that nobody set; another scheduler made from it
#: uses its own defaults for those (``set_alpha_to_one`` differs between DDIM and PNDM).
DEFAULTED = "_use_default_values"

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
#: What the coefficients of a run may be computed in.
TABLE_DTYPES = {"float64": torch.float64, "float32": torch.float32}

#: Keys that diffusers does not know. A file holds them only where they differ from the default,
#: so that diffusers reads it without a warning.
_OWN_KEYS = {"table_dtype": "float64", "variant": "modern"}
#: Keys of the 2022 releases and what they are called today.
_OLD_KEYS = {"timesteps": "num_train_timesteps", "clip_predicted_image": "clip_sample"}
#: Keys of those releases that mean nothing for sampling here.
_IGNORED_KEYS = ("tensor_format",)


def record_config(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Make a constructor keep its arguments, defaults included, in ``self.config``."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recording(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        defaulted = [name for name in values if name not in given]
        if defaulted:
            values[DEFAULTED] = defaulted
        self.config = FrozenConfig(values)  # type: ignore[attr-defined]
        init(self, *args, **kwargs)

    return cast("Callable[Concatenate[S, P], None]", recording)


def argument_names(scheduler_class: type) -> tuple[str, ...]:
    """Return the constructor arguments of a scheduler class, which are its configuration keys."""
    return tuple(inspect.signature(scheduler_class).parameters)


def explicit_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a configuration that somebody set, under today's names.

    Args:
        config: A configuration of septet or diffusers, or the content of a
            ``scheduler_config.json`` of any generation.

    Raises:
        ValueError: If it says the same thing under an old and a new name.
    """
    defaulted = config.get(DEFAULTED, ())
    for old, new in _OLD_KEYS.items():
        if old in config and new in config and new not in defaulted:
            raise ValueError(f"a scheduler configuration has either {old} or {new}, not both")
    entries = {
        _OLD_KEYS.get(key, key): value
        for key, value in config.items()
        if not key.startswith("_") and key not in defaulted and key not in _IGNORED_KEYS
    }
    # until 2022 a flag said what the network predicts
    predicts_noise = entries.pop("predict_epsilon", None)
    if predicts_noise is not None:
        entries.setdefault("prediction_type", "epsilon" if predicts_noise else "sample")
    return entries


def saved_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``scheduler_config.json`` says about a configuration; arrays become lists."""
    return {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in config.items()
        if key != DEFAULTED and (key not in _OWN_KEYS or value != _OWN_KEYS[key])
    }


def check_config(config: FrozenConfig) -> None:
    """Raise ValueError, naming the argument, where a value makes no sense."""
    count = config.num_train_timesteps
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1_000_000:
        raise ValueError(f"num_train_timesteps must be an integer from 1 to 1000000, got {count!r}")
    offset = config.get("steps_offset", 0)
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise ValueError(f"steps_offset must be a non-negative integer, got {offset!r}")
    for key, choices in (
        ("prediction_type", PREDICTION_TYPES),
        ("timestep_spacing", SPACINGS),
        ("table_dtype", tuple(TABLE_DTYPES)),
    ):
        value = config.get(key, choices[0])
        if value not in choices:
            raise ValueError(f"{key} must be one of {choices}, got {value!r}")
    numbers = ("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio")
    for key in ("beta_start", "beta_end", *numbers):
        value = config.get(key, 1.0)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{key} must be a positive number, got {value!r}")
    if config.get("dynamic_thresholding_ratio", 1.0) > 1:
        raise ValueError(
            "dynamic_thresholding_ratio must be at most 1, got "
            f"{config.dynamic_thresholding_ratio!r}"
        )
