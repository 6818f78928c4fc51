"""The manual's table is the program's."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from llmbatch.cli.main import app
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.core.preemption.manual import signals_markdown
from llmbatch.core.preemption.signals import SIGNALS, Signal

PAGE = Path(__file__).resolve().parents[4] / "docs/preemption.md"


def test_the_page_has_the_table_that_the_command_prints():
    shown = PAGE.read_text().split("<!-- llmbatch signals -->\n")[1].split("<!-- end -->\n")[0]
    printed = CliRunner().invoke(app, ["signals"]).stdout
    assert shown == printed, "replace the table in docs/preemption.md by what `llmbatch signals` prints"


def test_the_rows_of_ones_own_in_the_page_are_settings():
    [block] = PAGE.read_text().split("```json\n")[1:]
    settings = OperatorSettings.model_validate_json(block.split("```")[0])
    assert len(settings.signals) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"place": "nodeTaint", "key": "k", "kind": "reclaim", "leadSeconds": 60}, "| `k` | reclaim | 60 s |"),
        ({"place": "podFailure", "value": "Bad", "kind": "lost", "loss": "failure"}, "| `Bad` | lost, a failure |  |"),
        (
            {"place": "nodeCondition", "key": "C", "message": "a|b", "kind": "advisory"},
            r"`C`, message `a\|b` | advisory",
        ),
    ],
)
def test_a_row_in_words(row: dict[str, object], says: str):
    signal = TypeAdapter(Signal).validate_python({"name": "mine", **row})
    assert says in signals_markdown([signal])


def test_every_name_of_the_table_is_in_it():
    assert all(f"| {signal.name} |" in signals_markdown(SIGNALS) for signal in SIGNALS)
