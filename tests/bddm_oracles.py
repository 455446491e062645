"""Stored runs of the authors' BDDM code on tiny networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from septet.models import DiffWaveModel, GALRModel

DATA = Path(__file__).resolve().parent / "data"


class Oracle:
    """One stored case: its description and its tensors."""

    def __init__(self, name: str) -> None:
        path = DATA / "oracles" / name
        self.info: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        self.config = self.info["config"]
        self.tensors = load_file(path.with_suffix(".safetensors"))

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start so, without that."""
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }

    def score_network(self) -> DiffWaveModel:
        weights = self.part("weights.")
        model = DiffWaveModel(**self.config["net"])
        model.load_state_dict(
            {key: value for key, value in weights.items() if not key.startswith("schedule_net.")}
        )
        return model.eval().requires_grad_(False)

    def schedule_network(self) -> GALRModel:
        model = GALRModel(**self.config["galr"])
        model.load_state_dict(self.part("weights.schedule_net."))
        return model.eval().requires_grad_(False)


def layout(name: str) -> dict[str, Any]:
    """Return the published keys, shapes and configuration of a network."""
    content: dict[str, Any] = json.loads((DATA / "layouts" / f"{name}.json").read_text())
    return content


def relative_error(value: Tensor, expected: Tensor) -> float:
    value, expected = value.detach(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max())
