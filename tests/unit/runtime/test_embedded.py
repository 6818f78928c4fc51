"""What happens to the nodes of an embedded Ray, from a trace."""

from __future__ import annotations

import pytest

from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import RayStartError
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.embedded import LocalCapacity, RunOptions, Step, embedded_ray, timeline

TRACE = Trace.of([(0, ["a", "b"]), (60, ["b"]), (90, ["b", "c"])], 120)


def test_nodes_come_and_go_without_a_word():
    assert timeline(LocalCapacity(TRACE)) == [
        Step(0, "add", "a", 0),
        Step(0, "add", "b", 0),
        Step(60, "remove", "a", 0),
        Step(90, "add", "c", 0),
    ]


def test_a_notice_comes_before_the_node_goes():
    steps = timeline(LocalCapacity(TRACE, notice_seconds=20))
    assert Step(40, "notice", "a", 60) in steps
    assert steps.index(Step(40, "notice", "a", 60)) < steps.index(Step(60, "remove", "a", 0))


def test_a_notice_never_comes_before_the_node():
    steps = timeline(LocalCapacity(TRACE, notice_seconds=500))
    assert steps[:3] == [Step(0, "add", "a", 0), Step(0, "add", "b", 0), Step(0, "notice", "a", 60)]


def test_a_ray_that_does_not_start_is_an_error_of_ours(monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.cluster_utils.Cluster", late)
    options = RunOptions(capacity=LocalCapacity(TRACE))
    with (
        pytest.raises(RayStartError, match=r"^Ray did not start on this machine: The current node timed out"),
        embedded_ray(options, Desired()),
    ):
        raise AssertionError("there is no Ray")
