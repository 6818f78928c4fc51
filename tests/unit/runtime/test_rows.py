import datetime
import decimal

import pyarrow as pa

from llmbatch.runtime.rows import SCHEMA, Row, RowError, StageOutput, from_table, to_table, with_results


def test_rows_of_different_shape_share_one_schema_and_come_back_equal() -> None:
    rows = [
        Row("0.0.0", 0, 0, "a", {"n": 1, "nested": {"deep": [1, "x"]}}),
        Row("0.0.0", 0, 1, "b", {"n": "text"}, {"s": StageOutput("out", 3, 2, "stop")}),
        Row("0.0.0", 0, 2, "c", {}, error=RowError("s", "PromptError", "no field 'x'")),
    ]
    table = to_table(rows)
    assert table.schema == SCHEMA
    assert from_table(table) == rows


def test_values_without_a_json_form_become_text() -> None:
    fields = {"day": datetime.date(2026, 1, 2), "price": decimal.Decimal("1.50"), "raw": b"\x01\xff"}
    [row] = from_table(to_table([Row("0", 0, 0, "a", fields)]))
    assert row.fields == {"day": "2026-01-02", "price": "1.50", "raw": "01ff"}


def test_a_stage_changes_results_and_passes_the_rest_on() -> None:
    before = [Row("0.0.0", 7, n, f"id{n}", {"n": n}, {"first": StageOutput("x", 1, 1, "stop")}) for n in range(3)]
    batch = to_table(before).append_column("strange", pa.array([1, 2, 3]))
    rows = from_table(batch)
    rows[0].outputs["second"] = StageOutput([0.5, 1.0], 2)
    rows[1].error = RowError("second", "PromptError", "no field 'x'")
    rows[2].seconds = 1.5
    after = with_results(batch, rows)
    assert after.schema == SCHEMA
    assert from_table(after) == rows
