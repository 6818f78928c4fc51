"""Helm, and what the chart renders to."""

from __future__ import annotations

import pytest

from chartkit import Rendered, render


@pytest.fixture(scope="session")
def default() -> Rendered:
    """The chart with its default values."""
    return render()
