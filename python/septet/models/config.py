"""Model configurations: complete, checked before anything is allocated, never changed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

ConfigT = TypeVar("ConfigT", bound="ModelConfig")


class FrozenConfig(dict[str, Any]):
    """A read-only dict whose entries are attributes too, as in diffusers."""

    def __getattr__(self, name: str) -> Any:
        """Read an entry as an attribute."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no entry {name!r}") from None

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a model's configuration cannot be changed: make a new model instead")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = _refuse
    __ior__ = pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple[type[FrozenConfig], tuple[dict[str, Any]]]:
        """Copy and pickle through a plain dict, since entries cannot be set one by one."""
        return FrozenConfig, (dict(self),)


@dataclass(frozen=True)
class ModelConfig:
    """Base of the configuration of one model class: a field per key, a default per field."""

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
        """Make a configuration from the keys of a ``config.json``.

        Args:
            values: Keys that start with ``_`` (class name, version) are ignored, missing ones get
                their default, lists become tuples.

        Raises:
            ValueError: If a key is unknown, or a value makes no sense; the message names the key.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        unknown = sorted(given.keys() - set(known))
        if unknown:
            raise ValueError(f"unknown configuration key {unknown[0]!r}, known are {known}")
        return cls(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in given.items()
            }
        )

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


def check_int(key: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless ``value`` is an integer in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{key} must be an integer from {low} to {high}, got {_brief(value)}")


def check_number(key: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is a finite number in ``low..high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (low <= value <= high and math.isfinite(value))
    ):
        raise ValueError(f"{key} must be a number from {low} to {high}, got {_brief(value)}")


def check_bool(key: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {_brief(value)}")


def check_choice(key: str, value: object, choices: Collection[str | None]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{key} must be one of {list(choices)}, got {_brief(value)}")


def each(key: str, value: object, low: int, high: int) -> Iterator[tuple[str, Any]]:
    """Go through a tuple as pairs of ``key[i]`` and entry.

    Raises:
        ValueError: If it is not a tuple of ``low..high`` entries.
    """
    if not isinstance(value, tuple) or not low <= len(value) <= high:
        raise ValueError(f"{key} must be a list of {low} to {high} entries, got {_brief(value)}")
    return ((f"{key}[{index}]", entry) for index, entry in enumerate(value))


def _brief(value: object) -> str:
    """Show a value in an error message without filling the screen."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
