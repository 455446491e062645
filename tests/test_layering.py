"""The arrows of docs/architecture.md, executed over the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "septet"

# What each part of the package may import, itself aside. Everything may import the base.
BASE = {"errors", "backend", "config"}
ARROWS = {
    "errors": set(),
    "config": set(),
    "backend": set(),
    "ops": {"testing.references"},
    "testing": {"ops"},
    "random": {"ops"},
    "memory": set(),
    "nn": {"ops", "memory"},
    "text": {"checkpoints"},
    "audio": {"checkpoints"},
    "models": {"nn", "ops", "random", "checkpoints", "audio", "memory"},
    "schedulers": {"ops", "random", "checkpoints"},
    "checkpoints": set(),
    "capture": {"ops", "random"},
    "sampling": {"ops", "random", "capture", "schedulers.table"},
    "pipelines": {
        "sampling",
        "capture",
        "schedulers",
        "models",
        "random",
        "checkpoints",
        "ops",
        "nn",
        "text",
        "audio",
    },
    "integrations": {"pipelines"},
    "bench": {
        "ops",
        "random",
        "schedulers",
        "models",
        "pipelines",
        "testing",
        "nn",
        "sampling",
        "capture",
    },
    "cli": {
        "pipelines",
        "schedulers",
        "models",
        "ops",
        "random",
        "checkpoints",
        "text",
        "audio",
        "bench",
    },
}
HEAVY = {
    "transformers",
    "huggingface_hub",
    "diffusers",
    "matplotlib",
    "sklearn",
    "librosa",
    "pystoi",
}


def _part(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    return relative.parts[0]


def _imports(path):
    """Yield (module, whether at the top of the file) for each import."""
    tree = ast.parse(path.read_text())
    top = set(ast.iter_child_nodes(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "septet":
                names = [f"septet.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in top


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if _part(path) in ARROWS or path.parent != PACKAGE
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    part = _part(path)
    assert part in ARROWS, f"septet.{part} has no place in the picture"
    allowed = ARROWS[part] | BASE | {part, "_host", "__version__"}
    for name, at_top in _imports(path):
        assert not (at_top and name.split(".")[0] in HEAVY), f"{name} must be imported lazily"
        if not name.startswith("septet."):
            continue
        target = name.removeprefix("septet.")
        assert any(target == a or target.startswith(a + ".") for a in allowed), (
            f"septet.{part} imports {name}"
        )


def test_only_ops_reach_the_compiled_namespace():
    for path in PACKAGE.rglob("*.py"):
        if "ops" not in path.relative_to(PACKAGE).parts:
            assert "torch.ops.septet" not in _code(path), path


def _code(path):
    """Return the source without docstrings and comments."""
    return ast.unparse(_without_docstrings(ast.parse(path.read_text())))


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _includes(path):
    return re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())


def test_functors_are_plain_mathematics():
    for path in (ROOT / "csrc" / "functors").glob("*"):
        for name in _includes(path):
            assert name in ("cstdint", "cmath") or name.startswith("functors/"), f"{path}: {name}"


def test_kernels_per_instruction_set_know_no_torch():
    # They are compiled with wider instructions; an inline function of a shared header would carry
    # those into code that runs everywhere.
    for path in (ROOT / "csrc" / "ops").glob("*.simd.cpp"):
        seen, stack = set(), [path]
        while stack:
            for name in _includes(stack.pop()):
                assert not name.startswith("torch/"), f"{path} reaches {name}"
                header = ROOT / "csrc" / name
                if header.is_file() and header not in seen:
                    seen.add(header)
                    stack.append(header)


def test_cuda_headers_stay_behind_one_door():
    for path in (ROOT / "csrc").rglob("*"):
        if path.is_file() and path.name != "cuda.cuh":
            assert not any(name.startswith("cuda") for name in _includes(path)), path


def test_files_stay_small():
    for pattern in ("python/**/*.py", "csrc/**/*.*", "tests/**/*.py", "tools/*.py"):
        for path in ROOT.glob(pattern):
            lines = len(path.read_text().splitlines())
            assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines: one room or two?"
