"""Repositories of the Hugging Face hub: their local cache, and what to download of them.

The network is used only for a name like ``org/name`` that is not a folder, and only if
huggingface_hub is installed and nothing forbids it. The revision is resolved to a commit once;
everything is then read at that commit.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from septet.checkpoints.files import read_json, write_atomically
from septet.checkpoints.folder import INDEX_NAME
from septet.checkpoints.paths import inside, regular_size
from septet.checkpoints.weights import wanted_weights
from septet.config import brief
from septet.errors import CheckpointError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = ("1", "ON", "YES", "TRUE")
_MAX_REF_BYTES = 1 << 10

#: Makes a file of the repository available and returns its path.
Fetch = Callable[[str], Path]
#: Chooses what to download, given the names of all files; it may fetch some to decide.
Choose = Callable[[Sequence[str], Fetch], Sequence[str]]


@dataclass(frozen=True)
class HubOptions:
    """How to look for a repository; the arguments have the names that diffusers gives them.

    Attributes:
        cache_dir: The cache, by default that of huggingface_hub: ``HF_HUB_CACHE``, or ``hub`` in
            ``HF_HOME``.
        revision: A branch, a tag or a commit; None for "main".
        token: Passed on to huggingface_hub, for private repositories.
        local_files_only: Whether to leave the network alone; ``HF_HUB_OFFLINE=1`` asks for the
            same.
    """

    cache_dir: str | os.PathLike[str] | None = None
    revision: str | None = None
    token: str | bool | None = None
    local_files_only: bool = False


def locate(name: str | os.PathLike[str], options: HubOptions, choose: Choose) -> Path:
    """Return the folder with the files of a checkpoint.

    Args:
        name: A folder, or ``org/name``, a repository of the hub. A folder of that name goes first.
        options: How to look for a repository.
        choose: What of it to download, see :func:`model_files` and :func:`pipeline_files`.

    Returns:
        The folder, or the snapshot of the repository in the cache. A folder that is not there is
        returned as it is, for whoever reads it to name the file that is missing.

    Raises:
        CheckpointError: If the repository or the revision is unknown, or can be had neither from
            the cache nor from the hub.
    """
    text = os.fspath(name)
    path = Path(text)
    if not _NAME.fullmatch(text) or "--" in text or ".." in text or path.is_dir():
        return path
    cache = cache_folder(options.cache_dir)
    reason = _why_offline(options)
    if reason is None:
        try:
            return _download(text, cache, options, choose)
        except _NoConnection as error:
            reason = str(error)
            logger.warning("%s; looking in the cache %s", reason, cache)
    return _cached(text, cache, options.revision or "main", reason)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the download cache, as huggingface_hub chooses it."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = f"{general}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _why_offline(options: HubOptions) -> str | None:
    """Return what forbids the network, None if nothing does."""
    if options.local_files_only:
        return "local_files_only is set"
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in _TRUE:
            return f"{variable} is set"
    if importlib.util.find_spec("huggingface_hub") is None:
        return "huggingface_hub is not installed"
    return None


# -- the cache ----------------------------------------------------------------------------------


def _repository(cache: Path, name: str) -> Path:
    return cache / f"models--{name.replace('/', '--')}"


def _cached(name: str, cache: Path, revision: str, reason: str) -> Path:
    """Return the snapshot of a repository that is already in the cache."""
    repository = _repository(cache, name)
    where = f"{name!r} is no folder, and not in the cache {cache}"
    if not repository.is_dir():
        raise CheckpointError(f"{where} ({reason})")
    commit = revision
    if not _COMMIT.fullmatch(revision):
        ref = inside(repository / "refs", revision)
        if not ref.exists():
            raise CheckpointError(f"{where} at revision {brief(revision)} ({reason})")
        if regular_size(ref) > _MAX_REF_BYTES:
            raise CheckpointError(f"{ref}: too large for the name of a commit")
        commit = ref.read_bytes().decode(errors="replace").strip()
        if not _COMMIT.fullmatch(commit):
            raise CheckpointError(f"{ref}: {brief(commit)} is not a commit")
    snapshot = inside(repository / "snapshots", commit)
    if not snapshot.is_dir():
        raise CheckpointError(f"{where} at revision {brief(revision)} ({reason})")
    return snapshot


# -- the network --------------------------------------------------------------------------------


class _NoConnection(Exception):
    """The hub could not be asked."""


def _download(name: str, cache: Path, options: HubOptions, choose: Choose) -> Path:
    """Bring what is needed of a repository into the cache and return its snapshot."""
    import huggingface_hub

    info = _model_info(huggingface_hub, name, options)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise CheckpointError(f"{name}: the hub gave {brief(commit)} instead of a commit")
    snapshot = _repository(cache, name) / "snapshots" / commit
    names = [entry.rfilename for entry in info.siblings or () if _is_safe(entry.rfilename)]

    def fetch(file: str) -> Path:
        try:
            # at the commit, not at the revision: that may move while files are being fetched
            got = huggingface_hub.hf_hub_download(
                name, file, revision=commit, cache_dir=cache, token=options.token
            )
        except Exception as error:  # the network, the disk and the server can all fail
            raise CheckpointError(f"{name}: {file} cannot be downloaded: {error}") from error
        if Path(got) != snapshot / file:
            raise CheckpointError(f"{name}: {file} was downloaded to {got}, not to {snapshot}")
        return snapshot / file

    for file in choose(names, fetch):
        fetch(file)
    _remember(_repository(cache, name), options.revision or "main", commit)
    return snapshot


def _model_info(hub: Any, name: str, options: HubOptions) -> Any:
    """Ask the hub for the commit and the files of a repository."""
    try:
        return hub.HfApi(token=options.token).model_info(name, revision=options.revision)
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        revision = options.revision or "main"
        raise CheckpointError(
            f"{name!r} is no folder, and the hub gives no access to its revision "
            f"{brief(revision)}: {error}"
        ) from error
    except Exception as error:  # whatever the transport raises
        raise _NoConnection(f"the hub cannot be asked for {name}: {error}") from error


def _is_safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not (name.startswith("/") or ".." in parts or "\\" in name or "\0" in name)


def _remember(repository: Path, revision: str, commit: str) -> None:
    """Note which commit a revision is, so that it is found without the network next time."""
    if _COMMIT.fullmatch(revision):
        return
    try:
        ref = inside(repository / "refs", revision)
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ref, lambda temporary: temporary.write_text(commit))
    except OSError as error:
        logger.warning("%s: revision %s could not be noted: %s", repository, revision, error)


# -- what to download ---------------------------------------------------------------------------


def model_files(subfolder: str | None, variant: str | None, use_safetensors: bool | None) -> Choose:
    """Return the choice of the files of a single network."""

    def choose(names: Sequence[str], fetch: Fetch) -> list[str]:
        del fetch
        return _component_files(names, subfolder, variant, use_safetensors)

    return choose


def pipeline_files(variant: str | None, use_safetensors: bool | None) -> Choose:
    """Return the choice of the files of a pipeline: those of the components in its index."""

    def choose(names: Sequence[str], fetch: Fetch) -> list[str]:
        if INDEX_NAME not in names:
            return []  # whoever reads the index will miss it
        index = read_json(fetch(INDEX_NAME))
        chosen = [INDEX_NAME]
        for component, entry in index.items():
            if isinstance(entry, list) and entry != [None, None]:
                exists = any(name.startswith(f"{component}/") for name in names)
                folder = component if exists else None
                chosen += _component_files(names, folder, variant, use_safetensors)
        return list(dict.fromkeys(chosen))

    return choose


def _component_files(
    names: Sequence[str], folder: str | None, variant: str | None, use_safetensors: bool | None
) -> list[str]:
    """Choose the configurations, vocabularies and weights of one folder."""
    prefix = f"{folder}/" if folder else ""
    here = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    here = [name for name in here if "/" not in name]
    texts = [n for n in here if n.endswith((".json", ".txt")) and ".index." not in n]
    chosen = [*texts, *wanted_weights(here, variant, use_safetensors)]
    return [f"{prefix}{name}" for name in chosen]
