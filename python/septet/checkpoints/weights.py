"""Which files hold the weights of a model folder, in one piece or in shards."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from septet.checkpoints.files import read_json
from septet.checkpoints.paths import file_inside, is_file
from septet.checkpoints.tensors import PICKLE_SUFFIXES, read_tensors
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

WEIGHTS_STEM = "diffusion_pytorch_model"
#: By the library whose style it is, the stems of safetensors files and of pickled ones.
STEMS = {
    "diffusers": {".safetensors": WEIGHTS_STEM, ".bin": WEIGHTS_STEM},
    "transformers": {".safetensors": "model", ".bin": "pytorch_model"},
}
#: The releases of June 2022 had but this name.
EARLY_NAME = "diffusion_model.pt"
#: The largest published networks take some hundred.
MAX_SHARDS = 10_000


def weights_name(
    variant: str | None = None, suffix: str = ".safetensors", stem: str = WEIGHTS_STEM
) -> str:
    """Return the file name of a model's weights, e.g. ``diffusion_pytorch_model.fp16.bin``."""
    return f"{stem}{suffix}" if variant is None else f"{stem}.{variant}{suffix}"


def index_name(
    variant: str | None = None, suffix: str = ".safetensors", stem: str = WEIGHTS_STEM
) -> str:
    """Return the name of the file that lists shards, e.g. ``....bin.index.fp16.json``."""
    inner = "" if variant is None else f".{variant}"
    return f"{stem}{suffix}.index{inner}.json"


def candidates(
    variant: str | None, use_safetensors: bool | None, styles: Sequence[str] = ("diffusers",)
) -> list[str]:
    """List the names under which weights may be found, the best first.

    Args:
        variant: Part of the file name, such as "fp16"; another variant is never taken instead.
        use_safetensors: True allows only safetensors files, False only pickled ones.
        styles: The libraries whose names to list, keys of :data:`STEMS`, the best first.
    """
    names: list[str] = []
    for suffix in (".safetensors", ".bin"):
        if use_safetensors in (None, suffix == ".safetensors"):
            for stem in (STEMS[style][suffix] for style in styles):
                names += [weights_name(variant, suffix, stem), index_name(variant, suffix, stem)]
    if variant is None and not use_safetensors:
        names.append(EARLY_NAME)
    return names


def find_weights(
    folder: Path,
    *,
    root: Path | None = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    styles: Sequence[str] = ("diffusers",),
) -> Path:
    """Find the weights file of a model folder, or the index of its shards; safetensors first.

    Args:
        folder: The folder with the model's ``config.json``.
        root: The checkpoint folder it belongs to, ``folder`` itself if not given.
        variant: Part of the file name, such as "fp16"; another variant is never taken instead.
        use_safetensors: True allows only safetensors files, False only pickled ones.
        styles: See :func:`candidates`.

    Raises:
        CheckpointError: If there is none, or it is a link that leads out of ``root``.
    """
    names = candidates(variant, use_safetensors, styles)
    for name in names:
        if is_file(folder / name):
            return _member(folder, root, name)
    expected = " or ".join(name for name in names if not name.endswith(".json"))
    raise CheckpointError(f"{folder}: no weights found, expected {expected}")


def read_weights(
    folder: Path,
    *,
    root: Path | None = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    styles: Sequence[str] = ("diffusers",),
) -> tuple[Path, dict[str, Tensor]]:
    """Read the weights of a model folder, from one file or from shards.

    Args:
        folder: See :func:`find_weights`, as for the others.
        root: The same.
        variant: The same.
        use_safetensors: The same.
        styles: The same.

    Returns:
        The file (or index) read, and the weights by name.

    Raises:
        CheckpointError: If they are missing, damaged, or a file lies outside of ``root``.
    """
    path = find_weights(
        folder, root=root, variant=variant, use_safetensors=use_safetensors, styles=styles
    )
    if path.name.endswith(".json"):
        return path, _read_shards(path, folder, root)
    return path, read_tensors(path)


def _member(folder: Path, root: Path | None, name: str) -> Path:
    """Return a file in a model folder, checked against the checkpoint folder."""
    root = root or folder
    relative = folder.relative_to(root).as_posix()
    return file_inside(root, "" if relative == "." else relative, name)


def _read_shards(index: Path, folder: Path, root: Path | None) -> dict[str, Tensor]:
    expected: dict[str, set[str]] = {}
    for key, shard in _weight_map(index):
        expected.setdefault(shard, set()).add(key)
    if len(expected) > MAX_SHARDS:
        raise CheckpointError(f"{index}: names {len(expected)} shards, more than {MAX_SHARDS}")
    # all names are checked before the first shard is read
    paths = {shard: _member(folder, root, shard) for shard in expected}
    tensors: dict[str, Tensor] = {}
    for shard, path in paths.items():
        content = read_tensors(path)
        odd = sorted(content.keys() ^ expected[shard])
        if odd:
            state = "lacks" if odd[0] in expected[shard] else "holds unexpected"
            raise CheckpointError(f"{path}: {state} {odd[0]!r} according to {index.name}")
        tensors.update(content)
    return tensors


def _weight_map(index: Path) -> Iterator[tuple[str, str]]:
    """Go through the entries of a shard index, as pairs of weight and file.

    Raises:
        CheckpointError: If it is damaged, or a file is anything but a plain name of the same kind.
    """
    suffix = ".safetensors" if ".safetensors." in index.name else ".bin"
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must be an object that is not empty")
    for key, shard in weight_map.items():
        if not _is_plain_name(shard) or PurePosixPath(shard).suffix != suffix:
            raise CheckpointError(
                f"{index}: shard {shard!r} must be the name of a {suffix} file beside it"
            )
        yield key, shard


def _is_plain_name(name: object) -> bool:
    """Tell whether a name names a file right here, on every system."""
    if not isinstance(name, str) or "\0" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def wanted_weights(
    names: Iterable[str], variant: str | None, use_safetensors: bool | None
) -> list[str]:
    """Choose the weights to download among the files of one folder.

    Args:
        names: The names of all its files.
        variant: See :func:`candidates`.
        use_safetensors: See :func:`candidates`.

    Returns:
        The weights file; or an index and all shards that could belong to it; or nothing.
    """
    available = set(names)
    for name in candidates(variant, use_safetensors, (*STEMS,)):
        if name not in available:
            continue
        if not name.endswith(".json"):
            return [name]
        stem, _, suffix = name.partition(".index")[0].rpartition(".")
        start = f"{stem}-" if variant is None else f"{stem}.{variant}-"
        shards = (n for n in available if n.startswith(start) and n.endswith(f".{suffix}"))
        return [name, *sorted(shards)]
    return []


__all__ = [
    "EARLY_NAME",
    "MAX_SHARDS",
    "PICKLE_SUFFIXES",
    "STEMS",
    "WEIGHTS_STEM",
    "candidates",
    "find_weights",
    "index_name",
    "read_weights",
    "wanted_weights",
    "weights_name",
]
