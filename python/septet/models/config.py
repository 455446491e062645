"""Model configurations: complete, checked before anything is allocated, never changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from septet.config import FrozenConfig, check_bool, check_choice, check_int, check_number, each

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_CHANNELS",
    "MAX_LAYERS",
    "MAX_LEVELS",
    "MAX_PARAMETERS",
    "FrozenConfig",
    "ModelConfig",
    "check_bool",
    "check_choice",
    "check_int",
    "check_number",
    "each",
]

# Of image networks: far above every published one, far below what would exhaust a machine by
# building it.
MAX_CHANNELS = 1 << 14
MAX_LEVELS = 12
MAX_LAYERS = 32
MAX_PARAMETERS = 10_000_000_000

ConfigT = TypeVar("ConfigT", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """Base of the configuration of one model class: a field per key, a default per field."""

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
        """Make a configuration from the keys of a ``config.json``.

        Args:
            values: Keys that start with ``_`` (class name, version) are ignored, missing ones get
                their default, lists and the lists in them become tuples.

        Raises:
            ValueError: If a key is unknown, or a value makes no sense; the message names the key.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        unknown = sorted(given.keys() - set(known))
        if unknown:
            raise ValueError(f"unknown configuration key {unknown[0]!r}, known are {known}")
        return cls(**{key: _as_tuple(value) for key, value in given.items()})

    def __post_init__(self) -> None:
        """Check the values."""
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""

    def to_dict(self) -> FrozenConfig:
        """Return all keys with their values."""
        return FrozenConfig(
            {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        )


def _as_tuple(value: Any) -> Any:
    """Turn a list, and the lists that are its entries, into tuples."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
