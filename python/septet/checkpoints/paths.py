"""Names from files as paths: nothing outside a checkpoint folder is ever opened."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from septet.errors import CheckpointError


def inside(root: Path, name: str) -> Path:
    """Return ``root / name``, which must not lie outside ``root``, whatever it is.

    Raises:
        CheckpointError: If the name is absolute, climbs with "..", or is a link that leads out.
    """
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not name or absolute or ".." in parts or "\0" in name:
        raise CheckpointError(f"{root}: {name!r} must be a name inside it")
    path = root / name
    try:
        leads_out = not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or not encodable
        raise CheckpointError(f"{root}: {name!r} is no path") from error
    if leads_out:
        raise CheckpointError(f"{root}: {name!r} leads out of it")
    return path


def file_inside(root: Path, *names: str | None) -> Path:
    """Return a file of a checkpoint folder.

    Args:
        root: The checkpoint folder.
        *names: Folders on the way, then the file's name; None and "" are skipped.

    Returns:
        The path as named, which need not exist. It is ``root`` followed by the names, unless the
        file is a link: that may lead to another place in the folder, or, if the folder is a
        snapshot in the download cache of the Hugging Face hub, into the stores of this cache.

    Raises:
        CheckpointError: If the path or what it links to lies elsewhere.
    """
    name = "/".join(part for part in names if part)
    try:
        return inside(root, name)
    except CheckpointError:
        path = root / name
        safe_name = ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute()
        if safe_name and "\0" not in name and "\\" not in name and _in_hub_store(root, path):
            return path
        raise


def _in_hub_store(root: Path, path: Path) -> bool:
    """Tell whether a link in a cached snapshot leads to where the cache keeps its files."""
    try:
        target, root = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    for folder in (root, *root.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
            # The stores themselves are not resolved: a store that is a link proves nothing.
            # The second one is shared by all repositories of a cache.
            stores = (repository / "blobs", repository.parent / "blobs")
            return any(target.is_relative_to(store) for store in stores)
    return False


def regular_size(path: Path) -> int:
    """Return the size of a regular file; reading anything else might never end.

    Raises:
        CheckpointError: If there is no such file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a regular file")
    return status.st_size


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file, without complaining about odd names."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
