"""What tests/data holds: stored runs of the authors' code, and layouts of published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).resolve().parent / "data"


class Oracle:
    """A stored run: what it was (``info``), and its weights, inputs and outputs (``tensors``)."""

    def __init__(self, name: str) -> None:
        path = DATA / "oracles" / name
        self.info: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        self.tensors = load_file(path.with_suffix(".safetensors"))

    @property
    def config(self) -> dict[str, Any]:
        """What was run."""
        config: dict[str, Any] = self.info["config"]
        return config

    @property
    def constructor(self) -> dict[str, Any]:
        """The arguments that the authors' network was made with."""
        arguments: dict[str, Any] = self.info["constructor"]
        return arguments

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start so, without that."""
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }

    def weights(self) -> dict[str, Tensor]:
        return self.part("weights.")


def layout(name: str) -> dict[str, Any]:
    """Return the published keys, shapes and configuration of a network."""
    content: dict[str, Any] = json.loads((DATA / "layouts" / f"{name}.json").read_text())
    return content
