"""Stored runs of the authors' BDDM code on tiny networks."""

from __future__ import annotations

import stored
from septet.models import DiffWaveModel, GALRModel


class Oracle(stored.Oracle):
    """A stored run, and septet's networks with its weights."""

    def score_network(self) -> DiffWaveModel:
        weights = self.weights()
        model = DiffWaveModel(**self.config["net"])
        model.load_state_dict(
            {key: value for key, value in weights.items() if not key.startswith("schedule_net.")}
        )
        return model.eval().requires_grad_(False)

    def schedule_network(self) -> GALRModel:
        model = GALRModel(**self.config["galr"])
        model.load_state_dict(self.part("weights.schedule_net."))
        return model.eval().requires_grad_(False)
