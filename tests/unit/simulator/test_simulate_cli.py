"""`llmbatch simulate` as a user types it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmbatch.cli import simulate_tables
from llmbatch.cli.main import app
from llmbatch.simulator import study

ROOT = Path(__file__).resolve().parents[3]
TRACE = str(ROOT / "examples/traces/six-two-six.csv")
PAGE = ROOT / "docs/simulate.md"
COMMAND = re.compile(r"^llmbatch (simulate (?:.*\\\n)*.*)", re.MULTILINE)


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *arguments])


def document(*arguments: str) -> Any:
    done = simulate("--trace", TRACE, "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_table_names_every_policy_and_the_bound() -> None:
    done = simulate("--trace", TRACE, "--load", "3", "--seeds", "1")
    assert done.exit_code == 0, done.output
    for word in [*study.POLICIES, "clairvoyant", "4.8 GPUs on average", "E is the rows"]:
        assert word in done.stdout


def test_the_document_has_shares_that_add_up() -> None:
    found = document("--load", "3", "--seeds", "2", "--policy", "fixed")
    (policy,) = found["policies"]
    assert sum(policy["shares"].values()) == pytest.approx(1)
    assert policy["efficiency"] == pytest.approx(policy["rows"] / found["bounds"]["clairvoyant"])
    assert [seed["seed"] for seed in policy["seeds"]] == [0, 1]
    assert found["trace"] == {"seconds": 300, "gpuHours": 0.4, "mostGpus": 6, "changes": 2}
    assert found["bounds"]["clairvoyant"] <= found["bounds"]["loaded"] <= found["bounds"]["paid"]
    assert found["plan"] is None


def test_a_plan_compares_spot_with_on_demand() -> None:
    prices = ("--price-spot", "0.2", "--price-on-demand", "0.6", "--on-demand-nodes", "6")
    found = document("--service", "5,15,2.5", "--load", "3", "--seeds", "1", "--rows", "1000000", *prices)["plan"]
    spot, on_demand = found["capacities"]
    assert found["rows"] == 1_000_000
    assert (spot["capacity"], spot["meanNodes"], on_demand["meanNodes"]) == ("spot", pytest.approx(4.8), 6)
    (cheap,), (quick,) = spot["seeds"], on_demand["seeds"]
    assert quick["seconds"] < cheap["seconds"]
    assert cheap["cost"] == pytest.approx(0.2 * cheap["nodeHours"])
    assert quick["cost"] == pytest.approx(0.6 * quick["nodeHours"])


def test_a_plan_without_prices_has_no_cost() -> None:
    (spot, _) = document("--load", "3", "--seeds", "1", "--rows", "5000")["plan"]["capacities"]
    assert spot["seeds"][0]["cost"] is None


def test_bigger_nodes_do_more() -> None:
    few = ("--load", "3", "--service", "9", "--seeds", "1")
    rows = [document(*few, "--gpus-per-node", size)["bounds"]["paid"] for size in ("1", "4")]
    assert rows[1] == pytest.approx(4 * rows[0])


def test_a_report_is_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out" / "page.html"
    done = simulate("--trace", TRACE, "--load", "3", "--seeds", "1", "--rows", "5000", "--report", str(path))
    assert done.exit_code == 0, done.output
    text = path.read_text()
    assert text.count("<svg") == 2 + len(study.POLICIES)
    assert "5,000 rows under" in text
    assert not re.search(r"<(script|link|img)|(src|href)=\"http", text)


def test_a_report_of_a_single_stage(tmp_path: Path) -> None:
    report = tmp_path / "run.html"
    done = simulate(
        "--trace", TRACE, "--service", "1", "--load", "3", "--seeds", "1", "--policy", "ours", "--report", str(report)
    )
    assert done.exit_code == 0, done.output
    assert report.exists()


def test_a_picture_is_one_file_that_follows_the_theme(tmp_path: Path) -> None:
    path = tmp_path / "out" / "run.svg"
    done = simulate("--trace", TRACE, "--load", "3", "--seeds", "1", "--policy", "ours", "--picture", str(path))
    assert done.exit_code == 0, done.output
    text = path.read_text()
    assert text.startswith("<svg")
    assert "prefers-color-scheme: dark" in text
    for word in ("stage 1", "loading", "clairvoyant bound"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--trace", "none.csv"), "none.csv"),
        (("--trace", TRACE, "--service", "1,x"), "--service: '1,x': numbers joined by commas"),
        (("--trace", TRACE, "--service", "1,0"), "service of stage 2"),
        (("--trace", TRACE, "--service", "1,nan"), "--service: '1,nan': finite numbers"),
        (("--trace", TRACE, "--load", "1,2"), "--load: '1,2': one number, or 3"),
        (("--trace", TRACE, "--load", "-1"), "load of stage 1"),
        (("--trace", TRACE, "--gpus", "1.5"), "--gpus: '1.5': whole numbers"),
        (("--trace", TRACE, "--hours", "1"), "--hours: 1.0: more than 0, at most 0.08333"),
        (("--trace", TRACE, "--start", "inf"), "start_seconds: inf: 0 s or more, and finite"),
        (("--trace", TRACE, "--gpus", "2"), "--gpus: '2': at most --gpus-per-node, 1"),
    ],
)
def test_bad_input_is_told_with_what_is_allowed(arguments: tuple[str, ...], told: str) -> None:
    done = simulate(*arguments)
    assert done.exit_code == 2, done.output
    assert told in done.output


@pytest.mark.parametrize("option", ["--report", "--picture"])
def test_a_page_that_cannot_be_written(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "page"
    done = simulate("--trace", TRACE, "--load", "3", "--seeds", "1", "--policy", "fixed", option, str(path))
    assert done.exit_code == 2
    assert f"{option}: '{path}': a file that can be written" in done.output


@pytest.mark.parametrize(
    ("rows", "allowed"),
    [
        pytest.param("0,5\n", "repeat the last count at its end", id="no length"),
        pytest.param("0,0\n600,0\n", "a trace with a node at some time", id="no nodes"),
    ],
)
def test_a_trace_with_nothing_to_play(tmp_path: Path, rows: str, allowed: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"time_seconds,nodes\n{rows}")
    done = simulate("--trace", str(path))
    assert done.exit_code == 2
    assert allowed in done.output


def test_rows_above_the_bound_are_reported_as_a_failed_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages as the bound sees them are made slower than the world's."""
    slow = study.oracle_stages

    def slower(*arguments: Any) -> Any:
        stages = slow(*arguments)
        return [type(stage)(stage.gpu_seconds_per_row * 9, stage.load_seconds) for stage in stages]

    monkeypatch.setattr(study, "oracle_stages", slower)
    done = simulate("--trace", TRACE, "--load", "3", "--seeds", "1")
    assert done.exit_code == 1
    assert "not a measurement (E failed" in done.output


def test_every_part_of_the_table_is_part_of_the_waterfall() -> None:
    assert set(simulate_tables.PARTS) <= set(simulate_tables.WATERFALL)


@pytest.mark.parametrize("command", COMMAND.findall(PAGE.read_text()), ids=lambda command: command[:60])
def test_commands_of_the_page_work(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command.replace("\\\n", " "))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
