import datetime
import decimal

import pyarrow as pa

from jobs import stage
from ledgerkit import to_table
from llmbatch.runtime.rows import Row, RowError, StageOutput, from_table, names_in, outputs_in, with_results


def test_rows_of_different_shape_share_one_schema_and_come_back_equal() -> None:
    rows = [
        Row("0.0.0", 0, 0, "a", {"n": 1, "nested": {"deep": [1, "x"]}}),
        Row("0.0.0", 0, 1, "b", {"n": "text"}, {"s": StageOutput("out", 3, 2, "stop")}),
        Row("0.0.0", 0, 2, "c", {}, error=RowError("s", "PromptError", "no field 'x'")),
    ]
    assert from_table(to_table(rows)) == rows


def test_values_without_a_json_form_become_text() -> None:
    fields = {"day": datetime.date(2026, 1, 2), "price": decimal.Decimal("1.50"), "raw": b"\x01\xff"}
    [row] = from_table(to_table([Row("0", 0, 0, "a", fields)]))
    assert row.fields == {"day": "2026-01-02", "price": "1.50", "raw": "01ff"}


def test_a_stage_adds_what_it_made_and_passes_the_rest_on() -> None:
    rows = [
        Row("0.0.0", 7, n, f"id{n}", {"n": n}, {"first": StageOutput("x", 1, 1, "stop")}, seconds=1.0) for n in range(3)
    ]
    rows[2].error = RowError("first", "Lost", "gone")
    failed = RowError("second", "PromptError", "no field 'x'")
    after = with_results(to_table(rows), stage("second", task="embed"), [StageOutput([0.5, 1.0], 2), failed, None], 0.5)
    rows[0].outputs["second"] = StageOutput([0.5, 1.0], 2)
    rows[1].error = failed
    for row in rows:
        row.seconds = 1.5
    assert from_table(after) == rows


def test_batches_of_which_all_and_none_failed_have_one_schema() -> None:
    batch = to_table([Row("0", 0, 0, "a", {})])
    judge = stage("judge", task="classify")
    well = with_results(batch, judge, [StageOutput([0.5], 2)], 0.0)
    failed = with_results(batch, judge, [RowError("judge", "Lost", "gone")], 0.0)
    assert well.schema == failed.schema
    assert len(pa.concat_tables([well, failed, with_results(batch[:0], judge, [], 0.0)])) == 2


def test_a_template_sees_the_newest_of_two_values_of_one_name() -> None:
    batch = to_table([Row("0", 0, 0, "a", {"text": "old", "other": 1}, {"text": StageOutput("new")})])
    assert list(names_in(batch, ["text"])) == [{"text": "new"}]
    assert list(names_in(batch, ["text", "other"])) == [{"text": "new", "other": 1}]
    assert outputs_in(batch, "later", "value") is None
