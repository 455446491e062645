"""Saving and loading of schedulers: a configuration in, a table of steps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from septet.config import FrozenConfig
from septet.schedulers.config import (
    DEFAULTED,
    argument_names,
    explicit_entries,
    saved_entries,
)

if TYPE_CHECKING:
    import os

    from septet.schedulers.table import StepTable

SchedulerT = TypeVar("SchedulerT", bound="ConfiguredScheduler")

CONFIG_NAME = "scheduler_config.json"


class ConfiguredScheduler(ABC):
    """A sampler: a configuration, and a function that fills a :class:`StepTable` from it.

    Attributes:
        config: All constructor arguments, and those of other schedulers of the same family that
            the configuration it was made from held.
    """

    config_name: ClassVar[str] = CONFIG_NAME

    config: FrozenConfig

    @abstractmethod
    def table(self) -> StepTable:
        """Return the coefficients of all steps of the run that ``set_timesteps`` chose."""

    @classmethod
    def _family(cls) -> Sequence[type[ConfiguredScheduler]]:
        """Return the classes whose configurations this one understands."""
        return (cls,)

    # -- configurations -------------------------------------------------------------------------

    @property
    def compatibles(self) -> list[type[ConfiguredScheduler]]:
        """The scheduler classes that can be made from this one's configuration."""
        return list(self._family())

    @classmethod
    def from_config(
        cls: type[SchedulerT],
        config: Mapping[str, Any] | ConfiguredScheduler,
        **overrides: Any,
    ) -> SchedulerT:
        """Make a scheduler from the configuration of any of them.

        Args:
            config: A configuration of septet or diffusers, a scheduler that has one, or the
                content of a ``scheduler_config.json``. Keys that only another scheduler knows
                are kept in :attr:`config`, so that converting back loses nothing.
            **overrides: Constructor arguments that take precedence.

        Raises:
            ValueError: If a key belongs to no scheduler, or a value makes no sense.
        """
        given = config.config if isinstance(config, ConfiguredScheduler) else config
        entries = explicit_entries(given)
        known = {name for other in cls._family() for name in argument_names(other)}
        unknown = sorted(entries.keys() - known)
        if unknown:
            raise ValueError(f"unknown scheduler configuration key {unknown[0]!r}")
        own = argument_names(cls)
        scheduler = cls(**{k: v for k, v in entries.items() if k in own} | overrides)
        carried = {k: v for k, v in entries.items() if k not in own}
        scheduler.config = FrozenConfig(scheduler.config | carried)
        return scheduler

    @classmethod
    def from_pretrained(
        cls: type[SchedulerT],
        folder: str | os.PathLike[str],
        subfolder: str | None = None,
        **overrides: Any,
    ) -> SchedulerT:
        """Read ``scheduler_config.json`` from a folder.

        Args:
            folder: The folder with the file.
            subfolder: A folder in it to look in instead, such as "scheduler".
            **overrides: Constructor arguments that take precedence over the file.

        Raises:
            CheckpointError: If the file is missing or damaged.
            ValueError: See :meth:`from_config`.
        """
        from septet.checkpoints import read_json
        from septet.checkpoints.paths import file_inside

        return cls.from_config(
            read_json(file_inside(Path(folder), subfolder, CONFIG_NAME)), **overrides
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``scheduler_config.json``, complete, into a folder (made if need be)."""
        from septet.checkpoints import write_json

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        entries = {"_class_name": type(self).__name__, **saved_entries(self.config)}
        write_json(path / CONFIG_NAME, entries)

    def __repr__(self) -> str:
        """Show the class and its configuration."""
        entries = ", ".join(f"{k}={v!r}" for k, v in self.config.items() if k != DEFAULTED)
        return f"{type(self).__name__}({entries})"
