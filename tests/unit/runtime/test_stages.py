import pyarrow as pa
import pytest

from jobs import stage
from ledgerkit import to_table
from llmbatch.runtime.rows import Row, from_table
from llmbatch.runtime.stages import Replica

ROWS = [Row("0", 0, n, f"r{n}", {"text": f"text {n}"}) for n in range(10)]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_a_shard_goes_through_in_batches_and_comes_out_in_one_piece(batch_size: int) -> None:
    one = stage(batchSize=batch_size)
    answered = Replica(one)(pa.concat_tables([to_table(ROWS[:4]), to_table(ROWS[4:])]))
    assert [column.num_chunks for column in answered.columns] == [1] * answered.num_columns
    rows = from_table(answered)
    assert [row.id for row in rows] == [row.id for row in ROWS]
    alone = [from_table(Replica(one)(to_table([row])))[0] for row in ROWS]
    assert [row.outputs for row in rows] == [row.outputs for row in alone]


def test_no_rows_come_out_as_no_rows() -> None:
    nothing = Replica(stage())(to_table(ROWS)[:0])
    assert len(nothing) == 0
    assert "say.value" in nothing.column_names
