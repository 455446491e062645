"""What the tests of the emulator share."""

from __future__ import annotations

import shutil

import pytest
from toys import ORDERS, Builder


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Compile kernels for the emulator."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH")
    return Builder(tmp_path_factory.mktemp("toys"))


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test under each order of threads and blocks."""
    monkeypatch.setenv("SEPTET_EMULATOR_ORDER", request.param)
    return request.param


@pytest.fixture
def undetected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the detector off, to see what the emulator shows without it."""
    monkeypatch.setenv("SEPTET_EMULATOR_DETECTOR", "off")
