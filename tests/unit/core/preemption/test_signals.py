"""What follows from the objects that clouds and controllers leave behind, and from a table with rows of one's own."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmbatch.core.job.times import unix
from llmbatch.core.preemption.classify import Classifier
from llmbatch.core.preemption.notice import SEVERITY, Notice, merged
from llmbatch.core.preemption.signals import SIGNALS, Signal

FOLDER = Path(__file__).parent / "recorded"
RECORDED = [
    pytest.param(entry, id=f"{file.stem}: {entry['case']}")
    for file in sorted(FOLDER.glob("*.yaml"))
    for entry in yaml.safe_load(file.read_text())
]
SEEN = 1_790_000_000.0


def classify(body: dict[str, Any], *added: Signal) -> Notice | None:
    table = Classifier(added)
    return table.node(body) if body["kind"] == "Node" else table.pod(body)


@pytest.mark.parametrize("entry", RECORDED)
def test_recorded_objects_mean_what_their_makers_say(entry: dict[str, Any]):
    notice, expected = classify(entry["object"]), entry["expect"]
    if expected is None:
        assert notice is None
        return
    assert notice is not None
    assert (notice.kind, notice.source) == (expected["kind"], expected["source"])
    assert (notice.deadline, notice.lead_seconds) == (unix(expected.get("deadline")), expected.get("lead"))
    assert notice.loss == expected.get("loss", "preemption")
    elsewhere = notice.seen(SEEN, spot=False)
    assert elsewhere.kind == expected.get("on_demand", expected["kind"])


def test_every_row_is_met_by_a_recorded_object_or_is_a_plain_taint():
    met = {entry.values[0]["expect"]["source"] for entry in RECORDED if entry.values[0]["expect"]}  # type: ignore[index]
    hidden = {signal.name for signal in SIGNALS if not any(source.startswith(signal.name) for source in met)}
    assert hidden == {
        "aws-node-termination-handler/asg-lifecycle-termination",
        "remediator.aks.microsoft.com/unschedulable",
        "pod preempted",
    }


def test_names_are_unique():
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)


def test_an_added_row_counts_and_one_of_the_same_name_replaces():
    together = Signal(name="together", place="nodeTaint", key="together.ai/preempting", kind="reclaim", lead_seconds=60)
    quiet = Signal(name="node being deleted", place="nodeDeletion", kind="advisory")
    node = {
        "kind": "Node",
        "metadata": {"name": "n", "deletionTimestamp": "2026-09-01T10:00:01Z"},
        "spec": {"taints": [{"key": "together.ai/preempting", "effect": "NoSchedule"}]},
    }
    notice = classify(node, together, quiet)
    assert notice is not None
    assert (notice.kind, notice.source, notice.seen(SEEN, spot=True).deadline) == ("reclaim", "together", SEEN + 60)
    node["spec"] = {}
    notice = classify(node, together, quiet)
    assert notice is not None
    assert notice.kind == "advisory"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"place": "nodeTaint"}, "key is required with place nodeTaint"),
        ({"place": "podDeletion", "key": "x"}, "key is not allowed with place podDeletion"),
        ({"place": "nodeCondition", "key": "x", "message": "("}, "message must be a regular expression"),
        ({"place": "nodeTaint", "key": "x", "leadSeconds": -1}, "greater than or equal to 0"),
        ({"place": "nodeTaint", "key": "x", "kind": "soon"}, "'advisory', 'draining', 'reclaim' or 'lost'"),
    ],
)
def test_a_row_that_cannot_work_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        Signal.model_validate({"name": "mine", "kind": "reclaim", **fields})


def test_what_others_wrote_badly_stops_nothing():
    node = {
        "kind": "Node",
        "metadata": {"name": "n", "deletionTimestamp": "soon"},
        "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "timeAdded": "never"}]},
        "status": {"conditions": [{"type": "PreemptionScheduled", "status": "True"}]},
    }
    notice = classify(node)
    assert notice is not None
    assert (notice.kind, notice.observed_at) == ("lost", None)


TIMES = st.none() | st.floats(0, 1000)
NOTICES = st.builds(
    Notice,
    kind=st.sampled_from(SEVERITY),
    source=st.sampled_from("abc"),
    deadline=TIMES,
    lead_seconds=TIMES,
    observed_at=TIMES,
    spot_only=st.booleans(),
    loss=st.sampled_from(["preemption", "failure"]),
)


@settings(max_examples=50)
@given(st.lists(NOTICES, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_merging_keeps_the_strongest_kind_and_the_earliest_deadline_in_any_order(notices: list[Notice], chance: Any):
    one = merged(notices)
    assert one is not None
    assert one.kind == max((notice.kind for notice in notices), key=SEVERITY.index)
    deadlines = [notice.deadline for notice in notices if notice.dooms and notice.deadline is not None]
    assert one.deadline == min(deadlines, default=None)
    shuffled = list(notices)
    chance.shuffle(shuffled)
    again = merged(shuffled)
    assert again is not None
    assert (again.kind, again.deadline, again.source, again.loss) == (one.kind, one.deadline, one.source, one.loss)
    # In steps, as for a pod and its node, only the source may be another one of the strongest.
    in_steps = merged([merged(notices[:2]), *notices[2:]])
    assert in_steps is not None
    assert in_steps.model_copy(update={"source": one.source}) == one


@settings(max_examples=50)
@given(NOTICES, st.booleans())
def test_an_advisory_never_dooms_and_has_no_deadline_of_its_own(notice: Notice, spot: bool):
    seen = notice.seen(SEEN, spot=spot)
    assert seen.dooms == (notice.kind != "advisory" and (spot or not notice.spot_only))
    if notice.spot_only and not spot:
        assert seen.deadline is None
    merged_with = merged([Notice(kind="advisory", source="x", deadline=0.0, lead_seconds=0.0), notice])
    if notice.dooms:
        assert merged_with is not None
        assert merged_with.deadline == notice.deadline
