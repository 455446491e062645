"""Repositories of the hub: out of the cache, and, where allowed, out of the network."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import old_layouts
import pytest
import torch
from test_old_layouts import images
from torch import Tensor

import septet
from septet import CheckpointError, UNet2DModel
from septet.checkpoints import HubOptions, hub, locate

COMMIT, LATER = "0123456789abcdef" * 2 + "01234567", "f" * 40
NAME = "google/ddpm-tiny"
FOLDER = "models--google--ddpm-tiny"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and an empty cache."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE",
                     "TRANSFORMERS_OFFLINE", "HF_TOKEN"):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub"


def store(cache: Path, source: Path, commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Put a folder into a cache, as huggingface_hub does: files in blobs, links in a snapshot."""
    repository = cache / FOLDER
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    for path in (p for p in source.rglob("*") if p.is_file()):
        blob = repository / "blobs" / f"{abs(hash((commit, path))):040x}"
        shutil.copyfile(path, blob)
        link = repository / "snapshots" / commit / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref is not None:
        (repository / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return repository


@dataclass
class FakeHub:
    """Stands in for huggingface_hub: serves folders, and records what it is asked for."""

    commits: dict[str, Path]
    head: list[str]
    cache: Path
    failure: Exception | None = None
    asked: list[Any] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[Any] = field(default_factory=set)
    extra: tuple[str, ...] = ()

    class errors:
        class RepositoryNotFoundError(Exception):
            pass

        class RevisionNotFoundError(Exception):
            pass

    def HfApi(self, token: Any = None) -> Any:
        self.tokens.add(token)
        return SimpleNamespace(model_info=self.model_info)

    def model_info(self, name: str, revision: str | None = None) -> Any:
        self.asked.append((name, revision))
        if self.failure is not None:
            raise self.failure
        # a repository that changes under our hands gives another commit every time
        commit = self.head.pop(0)
        root = self.commits[commit]
        names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        siblings = [SimpleNamespace(rfilename=n) for n in (*sorted(names), *self.extra)]
        return SimpleNamespace(sha=commit, siblings=siblings)

    def hf_hub_download(
        self, name: str, file: str, *, revision: str, cache_dir: Path, token: Any
    ) -> str:
        assert name == NAME
        self.tokens.add(token)
        if (revision, file) not in self.files:
            self.files.append((revision, file))
        single = self.cache / "one"
        (single / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.commits[revision] / file, single / file)
        store(cache_dir, single, revision, ref=None)
        shutil.rmtree(single)
        return str(cache_dir / FOLDER / "snapshots" / revision / file)


@pytest.fixture
def serve(modern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHub]:
    def make(root: Path = modern, **options: Any) -> FakeHub:
        fake = FakeHub({COMMIT: root, LATER: root}, [COMMIT, LATER], tmp_path, **options)
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)  # type: ignore[arg-type]
        monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: object())
        return fake

    return make


# -- the cache ----------------------------------------------------------------------------------


def test_out_of_the_cache(modern: Path, cache: Path, weights: dict[str, Tensor]) -> None:
    store(cache, modern)
    pipeline = septet.DDPMPipeline.from_pretrained(NAME, local_files_only=True)
    assert torch.equal(images(pipeline), images(septet.DDPMPipeline.from_pretrained(modern)))
    unet = UNet2DModel.from_pretrained(NAME, subfolder="unet", local_files_only=True)
    assert torch.equal(unet.conv_in.weight, weights["conv_in.weight"])
    # a snapshot is a folder like any other
    snapshot = cache / FOLDER / "snapshots" / COMMIT
    assert torch.equal(images(septet.DDPMPipeline.from_pretrained(snapshot)), images(pipeline))


def test_a_cached_folder_of_2022(
    cache: Path, weights: dict[str, Tensor], tmp_path: Path, modern: Path
) -> None:
    old_layouts.write_july(tmp_path / "july", weights)
    store(cache, tmp_path / "july")
    pipeline = septet.DiffusionPipeline.from_pretrained(NAME, local_files_only=True)
    assert torch.equal(images(pipeline), images(septet.DDPMPipeline.from_pretrained(modern)))


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/1", COMMIT])
def test_revisions(modern: Path, cache: Path, revision: str) -> None:
    store(cache, modern, COMMIT, None if revision == COMMIT else revision)
    options = HubOptions(revision=revision, local_files_only=True)
    expected = cache / FOLDER / "snapshots" / COMMIT
    assert locate(NAME, options, hub.pipeline_files(None, None)) == expected
    with pytest.raises(CheckpointError, match="at revision 'other'"):
        locate(NAME, HubOptions(revision="other", local_files_only=True), hub.pipeline_files(0, 0))


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(modern: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(
        CheckpointError,
        match=rf"'google/ddpm-tiny' is no folder, and not in the cache .*hub \({variable} is set\)",
    ):
        septet.DDPMPipeline.from_pretrained(NAME)
    store(cache, modern)
    septet.DDPMPipeline.from_pretrained(NAME)


def test_without_huggingface_hub(
    modern: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match="huggingface_hub is not installed"):
        UNet2DModel.from_pretrained(NAME)
    store(cache, modern)
    UNet2DModel.from_pretrained(NAME, subfolder="unet")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "$HF_HOME/elsewhere")
    assert hub.cache_folder() == tmp_path / "home" / "elsewhere"
    assert hub.cache_folder(tmp_path / "mine") == tmp_path / "mine"
    for variable in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "huggingface" / "hub"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub.cache_folder() == Path.home() / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize("content", ["", "main", "../../../etc", "0" * 39, "A" * 40, "x" * 5000])
def test_refs_that_name_no_commit(modern: Path, cache: Path, content: str) -> None:
    repository = store(cache, modern)
    (repository / "refs" / "main").write_text(content)
    with pytest.raises(CheckpointError, match=r"refs/main: .*commit"):
        UNet2DModel.from_pretrained(NAME, subfolder="unet", local_files_only=True)


@pytest.mark.parametrize("revision", ["../x", "/etc/passwd", "a\0b", ".."])
def test_revisions_that_lead_out(modern: Path, cache: Path, revision: str) -> None:
    store(cache, modern)
    with pytest.raises(CheckpointError, match="must be a name inside it"):
        UNet2DModel.from_pretrained(NAME, revision=revision, local_files_only=True)


def test_links_out_of_the_cache(modern: Path, cache: Path, tmp_path: Path) -> None:
    repository = store(cache, modern)
    link = repository / "snapshots" / COMMIT / "unet" / "config.json"
    shutil.copyfile(link, tmp_path / "config.json")
    link.unlink()
    link.symlink_to(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"'unet/config\.json' leads out of it"):
        septet.DDPMPipeline.from_pretrained(NAME, local_files_only=True)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/a/b", "../b", "a/..", "a--b/c", "./a", ""])
def test_names_that_are_no_repository(name: str, tmp_path: Path) -> None:
    assert locate(name, HubOptions(), hub.model_files(None, None, None)) == Path(name)


def test_a_folder_goes_first(
    modern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    fake = serve()
    shutil.copytree(modern, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    septet.DDPMPipeline.from_pretrained(NAME)
    septet.DDPMPipeline.from_pretrained(tmp_path / NAME)
    assert fake.asked == []


# -- the network --------------------------------------------------------------------------------


def test_download(modern: Path, cache: Path, serve: Any, tmp_path: Path) -> None:
    fake = serve()
    for name in ("README.md", "unet/diffusion_pytorch_model.bin", "vae/config.json"):
        assert not (modern / name).exists()
    root = tmp_path / "repository"
    shutil.copytree(modern, root)
    for name in ("README.md", "unet/diffusion_pytorch_model.bin", "unet/x.fp16.safetensors"):
        (root / name).touch()
    fake.commits = {COMMIT: root, LATER: root}
    pipeline = septet.DDPMPipeline.from_pretrained(NAME, token="secret")
    assert torch.equal(images(pipeline), images(septet.DDPMPipeline.from_pretrained(modern)))
    assert sorted(file for _, file in fake.files) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert fake.tokens == {"secret"}
    # found again without the network
    septet.DDPMPipeline.from_pretrained(NAME, local_files_only=True)
    assert (cache / FOLDER / "refs" / "main").read_text() == COMMIT


def test_the_revision_is_resolved_once(modern: Path, serve: Any, cache: Path) -> None:
    fake = serve()
    septet.DDPMPipeline.from_pretrained(NAME, revision="v1")
    assert fake.asked == [(NAME, "v1")]
    assert {commit for commit, _ in fake.files} == {COMMIT}
    assert (cache / FOLDER / "refs" / "v1").read_text() == COMMIT


def test_download_of_a_network(serve: Any, tmp_path: Path) -> None:
    fake = serve()
    cache = tmp_path / "mine"
    UNet2DModel.from_pretrained(NAME, subfolder="unet", cache_dir=cache)
    assert {file for _, file in fake.files} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert (cache / FOLDER / "snapshots" / COMMIT).is_dir()


def test_download_of_2022(weights: dict[str, Tensor], serve: Any, tmp_path: Path) -> None:
    old_layouts.write_early(tmp_path / "early", weights)
    old_layouts.write_july(tmp_path / "july", weights)
    for age in ("early", "july"):
        fake = serve(tmp_path / age)
        septet.DDPMPipeline.from_pretrained(NAME, cache_dir=tmp_path / f"cache_{age}")
        names = {p.relative_to(tmp_path / age).as_posix()
                 for p in (tmp_path / age).rglob("*") if p.is_file()}  # fmt: skip
        assert {file for _, file in fake.files} == names


def test_falls_back_on_the_cache(
    modern: Path, cache: Path, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    serve(failure=OSError("no route to host"))
    with pytest.raises(
        CheckpointError, match=r"not in the cache .*\(the hub cannot be asked.*route"
    ):
        septet.DDPMPipeline.from_pretrained(NAME)
    store(cache, modern)
    septet.DDPMPipeline.from_pretrained(NAME)
    assert "no route to host" in caplog.text


@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "RevisionNotFoundError"])
def test_unknown_to_the_hub(modern: Path, cache: Path, serve: Any, kind: str) -> None:
    """An answer is no failure of the connection: the cache does not override it."""
    store(cache, modern)
    serve(failure=getattr(FakeHub.errors, kind)("404"))
    with pytest.raises(
        CheckpointError, match="the hub gives no access to its revision 'main': 404"
    ):
        septet.DDPMPipeline.from_pretrained(NAME)


def test_a_hub_that_lies(serve: Any, tmp_path: Path) -> None:
    fake = serve(extra=("../evil.json", "/etc/evil.json", "unet/../../evil.json", "x\\..\\a.json"))
    septet.DDPMPipeline.from_pretrained(NAME)
    assert not any("evil" in file or "\\" in file for _, file in fake.files)
    fake = serve(extra=("scheduler/missing.json",))
    with pytest.raises(CheckpointError, match=r"scheduler/missing\.json cannot be downloaded"):
        septet.DDPMPipeline.from_pretrained(NAME)
    fake = serve()
    fake.head, fake.commits = ["../../x"], {"../../x": fake.commits[COMMIT]}
    with pytest.raises(CheckpointError, match=r"the hub gave '\.\./\.\./x' instead of a commit"):
        septet.DDPMPipeline.from_pretrained(NAME)


def test_a_local_folder_never_asks(modern: Path, serve: Any) -> None:
    fake = serve()
    septet.DDPMPipeline.from_pretrained(modern)
    with pytest.raises(CheckpointError, match=r"model_index\.json: cannot be read"):
        septet.DDPMPipeline.from_pretrained(modern / "nowhere")
    assert fake.asked == []


def test_the_real_library_takes_our_arguments() -> None:
    real = pytest.importorskip("huggingface_hub")
    import inspect

    inspect.signature(real.HfApi).bind(token=None)
    inspect.signature(real.HfApi.model_info).bind(None, NAME, revision=None)
    inspect.signature(real.hf_hub_download).bind(
        NAME, "config.json", revision=COMMIT, cache_dir="x", token=None
    )
    for name in ("RepositoryNotFoundError", "RevisionNotFoundError"):
        assert issubclass(getattr(real.errors, name), Exception)
