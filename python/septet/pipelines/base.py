"""What all pipelines share: components, devices, loading and saving, progress, interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from septet.capture import StepGraphs
from septet.checkpoints import CheckpointFolder, HubOptions, locate, write_index
from septet.checkpoints.folder import SCHEDULER_CLASSES
from septet.checkpoints.hub import pipeline_files
from septet.pipelines.loading import Dtypes, check_names, dtype_by_component, load_component
from septet.pipelines.registry import find_class
from septet.random import Generators
from septet.sampling import PreparedModel, SamplingLoop, StepCallback
from septet.schedulers import Scheduler, StepTable

if TYPE_CHECKING:
    import os

PipelineT = TypeVar("PipelineT", bound="DiffusionPipeline")

#: Called as ``callback(pipeline, step_index, timestep, tensors)`` after every step.
PipelineCallback = Callable[[Any, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]

#: diffusers' name of the sample in callbacks.
_ALIASES = {"latents": "sample"}


class DiffusionPipeline:
    """Networks and a scheduler that sample together.

    ``DiffusionPipeline.from_pretrained`` makes the pipeline that the folder names; a subclass
    makes itself out of any folder with the components it needs.

    Attributes:
        components: The components by name, as the constructor takes them.
        step_graphs: The sampling steps kept as CUDA graphs. ``step_graphs.reason`` says why the
            last run did without; ``step_graphs.enabled = False`` does without always.
    """

    #: Names of the constructor arguments.
    component_names: ClassVar[tuple[str, ...]] = ()
    #: Those of them that may be None.
    optional_components: ClassVar[frozenset[str]] = frozenset()
    #: Other names of components in index files.
    component_aliases: ClassVar[Mapping[str, str]] = {}
    #: The class name in index files, where it is not that of the class.
    index_name: ClassVar[str | None] = None
    _callback_tensor_inputs: ClassVar[tuple[str, ...]] = (
        "latents",
        "sample",
        "model_output",
        "pred_original_sample",
    )

    def __init__(self) -> None:
        self._interrupt = False
        self.step_graphs = StepGraphs()
        # tqdm reads None as: show where there is a terminal
        self._progress_bar_config: dict[str, Any] = {"disable": None}

    @property
    def components(self) -> dict[str, Any]:
        """The components by name."""
        return {name: getattr(self, name) for name in self.component_names}

    def _modules(self) -> list[nn.Module]:
        """List the networks, also those of a component that is a pipeline."""
        modules: list[nn.Module] = []
        for part in self.components.values():
            if isinstance(part, DiffusionPipeline):
                modules += part._modules()
            elif isinstance(part, nn.Module):
                modules.append(part)
        return modules

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self._modules()[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the networks' weights."""
        return next(self._modules()[0].parameters()).dtype

    def to(
        self: PipelineT,
        *args: str | torch.device | torch.dtype,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> PipelineT:
        """Move the networks: ``to(device)``, ``to(dtype)``, ``to(device, dtype)`` or by name.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: If something is given twice, or is neither a device nor a floating type.
        """
        for argument in args:
            if isinstance(argument, torch.dtype):
                if dtype is not None:
                    raise ValueError("dtype is given twice")
                dtype = argument
            else:
                if device is not None:
                    raise ValueError("device is given twice")
                device = argument
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        try:
            place = None if device is None else torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device {device!r} is not known to torch") from error
        self.step_graphs.clear()
        for module in self._modules():
            module.to(device=place, dtype=dtype)
        return self

    # -- files ----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls: type[PipelineT],
        folder: str | os.PathLike[str],
        *,
        dtype: Dtypes = None,
        torch_dtype: Dtypes = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **components: Any,
    ) -> PipelineT:
        """Load a pipeline from a folder in the layout of diffusers, of any age.

        Args:
            folder: Holds ``model_index.json`` and a folder per component; a component whose
                folder is missing is read from the root. Or ``org/name``, a repository of the
                Hugging Face hub.
            dtype: Type of the weights, float32 if not given; or a dict of types by component,
                where "default" is for the rest.
            torch_dtype: The older name of ``dtype``.
            variant: Reads ``diffusion_pytorch_model.<variant>.safetensors``, for example "fp16".
            use_safetensors: True refuses pickled weights, False reads only those.
            cache_dir: See :class:`septet.checkpoints.HubOptions`, as for the next three.
            revision: The same.
            token: The same.
            local_files_only: The same.
            **components: Components to use instead of those in the folder.

        Raises:
            CheckpointError: If a file is missing, damaged, or names a class septet does not have.
            ValueError: If an argument is unknown or makes no sense.
        """
        if cls.component_names:
            check_names(components, cls.component_names, cls.__name__)
        options = HubOptions(cache_dir, revision, token, local_files_only)
        root = locate(folder, options, pipeline_files(variant, use_safetensors))
        opened = CheckpointFolder.open(root)
        chosen = find_class(opened.class_name) if cls is DiffusionPipeline else cls
        opened = opened.renamed(chosen.component_aliases)
        names = chosen.component_names
        check_names(components, names, chosen.__name__)
        dtypes = dtype_by_component(names, dtype, torch_dtype)
        for name in names:
            if name in components:
                continue
            if name in chosen.optional_components and name not in opened.components:
                components[name] = None
            else:
                components[name] = chosen._load_part(
                    opened,
                    name,
                    dtype=dtypes[name],
                    variant=variant,
                    use_safetensors=use_safetensors,
                )
        pipeline: PipelineT = chosen(**components)
        return pipeline

    @classmethod
    def _load_part(cls, folder: CheckpointFolder, name: str, **options: Any) -> Any:
        """Load a component by name; a subclass knows where old folders have it elsewhere."""
        return load_component(folder, folder.component(name), **options)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, variant: str | None = None
    ) -> None:
        """Save the pipeline in the layout of diffusers, weights as safetensors.

        Args:
            folder: Made if need be; files of the same names are replaced.
            variant: Goes into the names of the weights files.
        """
        path = Path(folder)
        entries: dict[str, str | None] = {}
        for name, component in self.components.items():
            if component is None:
                entries[name] = None
                continue
            options = {"variant": variant} if isinstance(component, nn.Module) else {}
            component.save_pretrained(path / name, **options)
            entries[name] = type(component).__name__
        # last, so that a folder with an index is complete
        write_index(path, self.index_name or type(self).__name__, entries)

    # -- runs -----------------------------------------------------------------------------------

    @property
    def interrupt(self) -> bool:
        """Whether the run in progress has been asked to stop (by setting ``_interrupt``)."""
        return self._interrupt

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """Show progress over an iterable (or a total) with tqdm; silent without a terminal."""
        from tqdm.auto import tqdm

        return tqdm(iterable, total=total, **self._progress_bar_config)

    def set_progress_bar_config(self, **config: Any) -> None:
        """Set tqdm's arguments for the progress bar, such as ``disable=True``."""
        self._progress_bar_config = {"disable": None, **config}

    def _check_callback(self, callback: object, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the tensors a callback wants to see.

        Raises:
            ValueError: If it is not callable, or a name is unknown.
        """
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end must be callable, got {callback!r}")
        # diffusers' callback objects say themselves what they need
        names = tuple(getattr(callback, "tensor_inputs", names))
        for name in names:
            if name not in self._callback_tensor_inputs:
                raise ValueError(
                    f"callback_on_step_end_tensor_inputs must be among "
                    f"{self._callback_tensor_inputs}, got {name!r}"
                )
        return names

    def _sample(
        self,
        table: StepTable,
        model: PreparedModel,
        sample: Tensor,
        generator: Generators,
        callback: PipelineCallback | None,
        names: Sequence[str],
        draw: Callable[[], Tensor] | None = None,
        **options: Tensor | None,
    ) -> Tensor:
        """Run the loop, showing progress, until it ends or :attr:`interrupt` is set.

        Args:
            table: The steps.
            model: What predicts.
            sample: The starting noise.
            generator: Where further noise comes from.
            callback: Called after every step.
            names: What it is shown, as :meth:`_check_callback` returns it.
            draw: Draws further noise instead of the generator.
            **options: Further arguments of the loop's call.
        """
        self._interrupt = False
        loop = self._loop(table, generator, callback, names, draw=draw)
        return loop(model, sample, **options)

    def _loop(
        self,
        table: StepTable,
        generator: Generators,
        callback: PipelineCallback | None,
        names: Sequence[str],
        **options: Any,
    ) -> SamplingLoop:
        """Make a loop that shows progress and ends when :attr:`interrupt` is set.

        Args:
            table: See :meth:`_sample`, as for the next three.
            generator: The same.
            callback: The same.
            names: The same.
            **options: Further arguments of :class:`SamplingLoop`.
        """
        return SamplingLoop(
            table,
            generator=generator,
            progress=self.progress_bar,
            callback=self._step_callback(callback, names),
            callback_tensors=_loop_tensors(names),
            interrupted=lambda: self._interrupt,
            graphs=self.step_graphs,
            **options,
        )

    def _step_callback(
        self, callback: PipelineCallback | None, names: Sequence[str]
    ) -> StepCallback | None:
        """Turn a pipeline's callback into a loop's."""
        if callback is None:
            return None

        def on_step_end(row: int, timestep: float, tensors: dict[str, Tensor]) -> Tensor | None:
            sample = tensors["sample"]
            shown = {name: tensors[_ALIASES.get(name, name)] for name in names}
            returned = callback(self, row, timestep, shown) or {}
            for name in ("sample", "latents"):
                replacement = returned.get(name)
                if replacement is not None and replacement is not sample:
                    return replacement
            return None

        return on_step_end


def _loop_tensors(names: Sequence[str]) -> tuple[str, ...]:
    """Return what the loop must show so that a callback can see these names."""
    return tuple(dict.fromkeys(("sample", *(_ALIASES.get(name, name) for name in names))))


def as_scheduler(scheduler: Any, wanted: type[Scheduler] | None = None) -> Scheduler:
    """Return a scheduler as it is, or one of septet's made from its configuration.

    Args:
        scheduler: A scheduler of septet or diffusers.
        wanted: The class it must be an instance of; None for any of septet's.

    Raises:
        ValueError: If it is of an unknown kind.
    """
    if isinstance(scheduler, wanted or Scheduler):
        return scheduler
    name = type(scheduler).__name__
    found: Any = find_class(name) if name in SCHEDULER_CLASSES else object
    if not issubclass(found, Scheduler) or not hasattr(scheduler, "config"):
        known = [kind.__name__ for kind in Scheduler._classes]
        raise ValueError(f"scheduler must be one of {known}, got {name}")
    made: Scheduler = (wanted or found).from_config(scheduler.config)
    return made


def prepare(model: Any, table: StepTable, device: torch.device) -> PreparedModel:
    """Bind a network to the timesteps of a table.

    Args:
        model: A septet network, which computes ahead what depends on the timesteps only; or any
            callable ``model(sample, timestep)``, such as a diffusers network.
        table: The run.
        device: Device of the samples.
    """
    timesteps = torch.tensor(table.timesteps, device=device)
    if hasattr(model, "prepare"):
        prepared: PreparedModel = model.prepare(timesteps)
        return prepared

    def call(sample: Tensor, row: int) -> Tensor:
        output = model(sample, timesteps[row])
        result: Tensor = output.sample if hasattr(output, "sample") else output[0]
        return result

    return call
