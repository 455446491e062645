"""The ways in which a user of diffusers can run its networks on a CPU. A new one is a row here."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pkgutil
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from septet.bench.rows import LAYOUTS, Candidate, Loaded

#: A network and its inputs, which are tensors, to a call.
Adapter = Callable[[nn.Module, tuple[Tensor, ...], Path], Callable[[], Tensor]]


@dataclass(frozen=True)
class Network:
    """A network of diffusers; it can be pickled.

    Attributes:
        name: ``"diffusers:UNet2DModel"`` or the like.
        config: For its constructor.
        inputs: Makes what it is called with.
        method: What is called.
    """

    name: str
    config: dict[str, Any]
    inputs: Callable[[], tuple[Tensor, ...]]
    method: str = "forward"


@dataclass(frozen=True)
class Peer:
    """A way to run a network of diffusers.

    Attributes:
        name: As the tables have it.
        adapt: Prepares it: compiles, converts.
        package: What is needed besides diffusers, imported before memory is looked at.
        is_slow_to_start: Whether it needs minutes to get ready, every time.
        obstacle: Says what else is missing here; None if nothing is.
    """

    name: str
    adapt: Adapter
    package: str | None = None
    is_slow_to_start: bool = False
    obstacle: Callable[[], str | None] = lambda: None

    def missing(self) -> str | None:
        """Say what is missing to run it here; None if nothing is."""
        for package in ("diffusers", self.package):
            if package is not None and not is_installed(package):
                return f"{package} is not installed"
        return self.obstacle()


def is_installed(package: str) -> bool:
    """Tell whether a package is there; does not import it."""
    return importlib.util.find_spec(package) is not None


def version(package: str) -> str | None:
    """Return the version of an installed package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Return the version of every package that a peer needs besides diffusers and torch."""
    return {peer.package: version(peer.package) for peer in PEERS if peer.package is not None}


def candidates(network: Network, *, is_large: bool = False) -> list[Candidate]:
    """Return a candidate per peer that can run here.

    Args:
        network: What they run.
        is_large: Leaves out whoever would need too long to get ready.
    """
    found = []
    for peer in PEERS:
        if peer.missing() is None and not (is_large and peer.is_slow_to_start):
            load = functools.partial(_load, peer.name, network)
            imports = (network.name, *([peer.package] if peer.package else []))
            found.append(Candidate(peer.name, load, is_baseline=True, imports=imports))
    return found


class _Plain(nn.Module):
    """Takes and returns tensors, as compilers want it."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(self.model, self.method)(*inputs, return_dict=False)[0]
        return result


def _load(name: str, network: Network, folder: Path) -> Loaded:
    (peer,) = (peer for peer in PEERS if peer.name == name)
    with torch.device("meta"):
        model: nn.Module = pkgutil.resolve_name(network.name)(**network.config)
    (file,) = folder.glob("*.safetensors")
    # copied out of the file, as by from_pretrained, so that it does not count as memory twice
    weights = {key: value.clone() for key, value in load_file(file).items()}
    model.load_state_dict(weights, assign=True)
    del weights
    model.eval().requires_grad_(False)
    call = peer.adapt(_Plain(model, network.method), network.inputs(), folder)
    return Loaded(call, lambda: [call()])


def _eager(
    layout: str, model: nn.Module, inputs: tuple[Tensor, ...], folder: Path
) -> Callable[[], Tensor]:
    del folder
    memory_format = LAYOUTS[layout]
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    sample = inputs[0].contiguous(memory_format=memory_format)
    return functools.partial(model, sample, *inputs[1:])


def _compiled(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Callable[[], Tensor]:
    # cold, so that the set-up is what a user waits for
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    config: Any = pkgutil.resolve_name("torch._inductor.config")
    config.freezing = True
    compiled: Any = torch.compile(model)
    compiled(*inputs)
    return functools.partial(compiled, *inputs)


def _openvino(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Callable[[], Tensor]:
    del folder
    # a conversion otherwise reports itself over the network
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    openvino: Any = importlib.import_module("openvino")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=pkgutil.resolve_name("torch.jit:TracerWarning"))
        converted = openvino.convert_model(model, example_input=inputs)
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()
    arrays = [tensor.numpy() for tensor in inputs]

    def call() -> Tensor:
        return torch.from_numpy(request.infer(arrays)[0])

    return call


def _no_compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    found = any(shutil.which(name) for name in names if name)
    return None if found else "there is no C++ compiler"


PEERS = (
    Peer("diffusers (contiguous)", functools.partial(_eager, "contiguous")),
    Peer("diffusers (channels_last)", functools.partial(_eager, "channels_last")),
    Peer("torch.compile (freezing)", _compiled, is_slow_to_start=True, obstacle=_no_compiler),
    Peer("OpenVINO", _openvino, package="openvino"),
)
