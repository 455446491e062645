"""Configurations: a read-only mapping, and the checks of its values."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class FrozenConfig(dict[str, Any]):
    """A read-only dict whose entries are attributes too, as in diffusers."""

    def __getattr__(self, name: str) -> Any:
        """Read an entry as an attribute."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no entry {name!r}") from None

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a configuration cannot be changed: make another one with from_config")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = _refuse
    __ior__ = pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple[type[FrozenConfig], tuple[dict[str, Any]]]:
        """Copy and pickle through a plain dict, since entries cannot be set one by one."""
        return type(self), (dict(self),)


def check_int(key: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless ``value`` is an integer in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{key} must be an integer from {low} to {high}, got {brief(value)}")


def positive_integer(key: str, value: object) -> int:
    """Return a positive integer of any kind, such as numpy's, as Python's.

    Raises:
        ValueError: If it is none.
    """
    number = as_integer(value)
    if number is None or number < 1:
        raise ValueError(f"{key} must be an integer of at least 1, got {brief(value)}")
    return number


def as_integer(value: object) -> int | None:
    """Return an integer of any kind as Python's, and None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_number(key: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is a finite number in ``low..high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (low <= value <= high and math.isfinite(value))
    ):
        raise ValueError(f"{key} must be a number from {low} to {high}, got {brief(value)}")


def check_bool(key: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {brief(value)}")


def check_choice(key: str, value: object, choices: Collection[str | None]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{key} must be one of {list(choices)}, got {brief(value)}")


def each(key: str, value: object, low: int, high: int) -> Iterator[tuple[str, Any]]:
    """Go through a tuple as pairs of ``key[i]`` and entry.

    Raises:
        ValueError: If it is not a tuple of ``low..high`` entries.
    """
    if not isinstance(value, tuple) or not low <= len(value) <= high:
        raise ValueError(f"{key} must be a list of {low} to {high} entries, got {brief(value)}")
    return ((f"{key}[{index}]", entry) for index, entry in enumerate(value))


def brief(value: object) -> str:
    """Show a value in an error message without filling the screen."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python will print
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
