"""Which tests may run beside each other, where pytest-xdist runs them on several workers."""

from __future__ import annotations

from typing import Any

import pytest

WHOLE_JOBS = "test_e2e_"
"""How the files begin whose tests run whole jobs: each starts a Ray, and one fills a small machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the whole jobs: they take longest."""
    items.sort(key=lambda item: not item.path.name.startswith(WHOLE_JOBS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep a file's tests on one worker, for their fixtures, and all whole jobs on one."""
    # `--dist loadgroup` does nothing under pytest 9.2 (pytest-xdist 3.8).
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return WHOLE_JOBS if f"/{WHOLE_JOBS}" in file else file

    return ByFile(config, log)
