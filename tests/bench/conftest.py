"""Candidates of the benchmark in this process: others take seconds to start."""

from __future__ import annotations

import pytest

from septet.bench import apart


class _Here:
    """Stands in for a process that stays."""

    def __init__(self, who):
        self._resident = None

    def __call__(self, function, *arguments):
        apart._resident = self._resident
        result = function(*arguments)
        self._resident = apart._resident
        return result

    def __enter__(self):
        return self

    def __exit__(self, *error):
        apart._resident = None


@pytest.fixture
def here(monkeypatch):
    """Skip the processes."""
    monkeypatch.setattr(apart, "_Process", _Here)
    monkeypatch.setattr(apart.gc, "disable", lambda: None)
