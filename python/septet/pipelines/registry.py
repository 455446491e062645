"""Which class a name in a checkpoint stands for.

The names are those of :mod:`septet.checkpoints.folder`: a name from a file is looked up there and
never decides by itself what gets imported.
"""

from __future__ import annotations

import importlib
from typing import Any

from septet.checkpoints.folder import (
    MODEL_CLASSES,
    PIPELINE_CLASSES,
    SCHEDULER_CLASSES,
    TOKENIZER_CLASSES,
    TRANSFORMERS_CLASSES,
)
from septet.errors import CheckpointError

_MODULES = {
    "septet.pipelines": PIPELINE_CLASSES,
    "septet.models": MODEL_CLASSES,
    "septet.schedulers": SCHEDULER_CLASSES,
    "septet.text": TOKENIZER_CLASSES,
    "transformers": TRANSFORMERS_CLASSES,
}


def find_class(name: str) -> type[Any]:
    """Return the pipeline, model or scheduler class with a name.

    Raises:
        CheckpointError: If the name is not in the tables.
    """
    for module, names in _MODULES.items():
        if name in names:
            found: type[Any] = getattr(importlib.import_module(module), name)
            return found
    known = ", ".join(name for names in _MODULES.values() for name in names)
    raise CheckpointError(f"class {name!r} is not supported; known are {known}")
