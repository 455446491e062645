"""``import septet`` is quick, quiet and lazy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import septet

HEAVY = ("transformers", "huggingface_hub", "diffusers", "PIL", "matplotlib", "sklearn")


def fresh(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_import_costs_little_beyond_torch():
    code = (
        "import json, time, torch\n"
        "start = time.perf_counter()\n"
        "import septet\n"
        "print(json.dumps(time.perf_counter() - start))"
    )
    assert min(fresh(code) for _ in range(3)) < 0.1


def test_pipelines_need_no_heavy_package():
    code = (
        "import json, sys, septet\n"
        "[getattr(septet, name) for name in septet.__all__]\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert fresh(code) == []


def test_import_alone_loads_not_even_torch():
    code = "import json, sys, septet; print(json.dumps('torch' in sys.modules))"
    assert fresh(code) is False


def test_names():
    aliases = {"LDMTextToImagePipeline": "LatentDiffusionPipeline"}
    assert set(septet.__all__) <= set(dir(septet))
    for name in septet.__all__:
        assert getattr(septet, name).__name__ == aliases.get(name, name)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = septet.nonsense
