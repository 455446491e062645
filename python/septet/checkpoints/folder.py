"""The folder layout of diffusers: an index file, and one folder per component."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from septet.checkpoints.aliases import (
    COMPONENT_ALIASES,
    MODEL_ALIASES,
    PIPELINE_ALIASES,
    SCHEDULER_ALIASES,
    TOKENIZER_ALIASES,
)
from septet.checkpoints.files import read_json, write_json
from septet.checkpoints.paths import file_inside, inside
from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

INDEX_NAME = "model_index.json"

# A class name in a file is only ever looked up here, after its alias of 2022 has been replaced: it
# never decides what gets imported.
PIPELINE_CLASSES = (
    "DDPMPipeline",
    "DDIMPipeline",
    "PNDMPipeline",
    "LDMPipeline",
    "LDMTextToImagePipeline",
    "GLIDEPipeline",
    "BDDMPipeline",
    "GradTTSPipeline",
)
MODEL_CLASSES = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "AutoencoderKL",
    "VQModel",
    "LDMBertModel",
    "GlideTextToImageUNet",
    "GlideSuperResolutionUNet",
    "DiffWaveModel",
    "GALRModel",
    "GradTTSTextEncoder",
    "HiFiGANModel",
    "UNetGradTTSModel",
)
SCHEDULER_CLASSES = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "GLIDEScheduler",
    "BDDMScheduler",
    "GradTTSScheduler",
)
TOKENIZER_CLASSES = (
    "GlideTokenizer",
    "GradTTSTokenizer",
)
#: Taken from the package transformers.
TRANSFORMERS_CLASSES = (
    "BertTokenizer",
    "BertTokenizerFast",
    "CLIPTextModel",
    "CLIPTokenizer",
    "CLIPTokenizerFast",
)
#: Where diffusers looks for its classes that are not in its own name space, and for transformers'.
_LIBRARIES = {"LDMBertModel": "latent_diffusion"} | dict.fromkeys(
    TRANSFORMERS_CLASSES, "transformers"
)
#: Parts of Stable Diffusion checkpoints that have no say in the picture; they are left alone.
_UNUSED_CLASSES = [
    [name]
    for name in (
        "StableDiffusionSafetyChecker",
        "CLIPFeatureExtractor",
        "CLIPImageProcessor",
        "CLIPVisionModelWithProjection",
    )
]


@dataclass(frozen=True)
class Component:
    """One entry of an index file.

    Attributes:
        name: What the pipeline calls the component, such as "unet"; today's name of it.
        library: The package the class comes from according to the file, usually "diffusers".
        class_name: A name from the tables of this module.
        path: The folder with the component's files.
        subfolder: The same within the checkpoint folder, None where it is that folder.
    """

    name: str
    library: str
    class_name: str
    path: Path
    subfolder: str | None = None


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint folder whose index has been read and checked.

    Attributes:
        path: The folder.
        class_name: The pipeline class, a name from the tables of this module.
        components: The components by name; those that the file declares absent are not there.
        options: The other entries of the index file, such as flags.
    """

    path: Path
    class_name: str
    components: Mapping[str, Component]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> CheckpointFolder:
        """Read the index file of a folder.

        Raises:
            CheckpointError: If the file is missing or damaged, names a class that is not in the
                tables, or a component lies outside the folder.
        """
        path = Path(folder)
        where = path / INDEX_NAME
        index = read_json(file_inside(path, INDEX_NAME))
        class_name = _known(
            index.get("_class_name"), PIPELINE_CLASSES, PIPELINE_ALIASES, f"{where}: _class_name"
        )
        components: dict[str, Component] = {}
        options: dict[str, Any] = {}
        for name, entry in index.items():
            if name.startswith("_"):
                continue
            if not isinstance(entry, list):
                options[name] = entry
            elif entry != [None, None] and entry[1:] not in _UNUSED_CLASSES:
                found = _component(path, name, entry)
                if found.name in components:
                    raise CheckpointError(f"{where}: component {found.name!r} is there twice")
                components[found.name] = found
        return cls(path, class_name, components, options)

    def renamed(self, aliases: Mapping[str, str]) -> CheckpointFolder:
        """Return the same folder with other names for some components.

        Args:
            aliases: Wanted name by name in the index file.

        Raises:
            CheckpointError: If a component then is there twice.
        """
        components: dict[str, Component] = {}
        for name, part in self.components.items():
            today = aliases.get(name, name)
            if today in components:
                raise CheckpointError(
                    f"{self.path / INDEX_NAME}: component {today!r} is there twice"
                )
            components[today] = replace(part, name=today)
        return replace(self, components=components)

    def component(self, name: str, *class_names: str) -> Component:
        """Return a component, checking its class.

        Args:
            name: Such as "unet".
            *class_names: The classes that will do; none given means that any will.

        Raises:
            CheckpointError: If the index does not have it, or has it with another class.
        """
        found = self.components.get(name)
        where = self.path / INDEX_NAME
        if found is None:
            raise CheckpointError(
                f"{where}: no component {name!r}, there are {sorted(self.components)}"
            )
        if class_names and found.class_name not in class_names:
            raise CheckpointError(
                f"{where}: component {name!r} is a {found.class_name}, expected "
                f"{' or '.join(class_names)}"
            )
        return found


def write_index(
    folder: str | os.PathLike[str],
    class_name: str,
    components: Mapping[str, str | None],
) -> None:
    """Write the index file of a checkpoint folder.

    Args:
        folder: An existing folder.
        class_name: The pipeline class.
        components: Class name by component name, None for an absent component.
    """
    entries = {
        name: [None, None] if part is None else [_LIBRARIES.get(part, "diffusers"), part]
        for name, part in components.items()
    }
    write_json(Path(folder) / INDEX_NAME, {"_class_name": class_name, **entries})


def _component(root: Path, name: str, entry: list[Any]) -> Component:
    where = f"{root / INDEX_NAME}: component {name!r}"
    if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        raise CheckpointError(f"{where} must be [library, class], got {brief(entry)}")
    library, class_name = entry
    classes = (
        *MODEL_CLASSES,
        *SCHEDULER_CLASSES,
        *TOKENIZER_CLASSES,
        *TRANSFORMERS_CLASSES,
        *PIPELINE_CLASSES,
    )
    aliases = {**MODEL_ALIASES, **SCHEDULER_ALIASES, **TOKENIZER_ALIASES, **PIPELINE_ALIASES}
    known = _known(class_name, classes, aliases, where)
    path = inside(root, name)
    try:
        exists = path.is_dir()
    except OSError:  # too long for a folder's name
        exists = False
    today = COMPONENT_ALIASES.get(name, name)
    # Repositories of a single network keep the files of all components beside the index.
    if not exists:
        return Component(today, library, known, root)
    return Component(today, library, known, path, name)


def _known(
    class_name: object, table: tuple[str, ...], aliases: Mapping[str, str], where: str
) -> str:
    today = aliases.get(class_name, class_name) if isinstance(class_name, str) else None
    if today is None or today not in table:
        raise CheckpointError(f"{where} is {brief(class_name)}, expected one of {list(table)}")
    return today
