"""Which tests may run beside each other, where pytest-xdist runs them on several workers."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a file's tests together, for their fixtures, and the whole jobs too: a Ray fills a small machine.

    The whole jobs take longest, so they come first. pytest-xdist reads the groups in the same hook, hence `tryfirst`.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    for item in items:
        group = "whole jobs" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
