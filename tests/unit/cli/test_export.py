"""`llmbatch export` as a user types it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from jobs import job
from ledgerkit import manifest_of, shard_keys, table_of
from llmbatch.api.runspec import run_spec
from llmbatch.cli.main import app
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard


def export(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["export", str(folder / "job.yaml"), str(folder / "all.jsonl"), *more])


def test_what_a_run_wrote_elsewhere_is_exported_from_there(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job(tmp_path).to_wire()))
    elsewhere = str(tmp_path / "elsewhere")
    plan = run_spec(job(tmp_path).with_output(elsewhere))
    ledger = Ledger.open(plan.spec.output, plan.spec_hash, plan.job)
    [key] = shard_keys(files=1, shards=1, rows=2)
    write_shard(ledger, plan.spec, key, table_of(key))
    finalize(ledger, manifest_of([key]), plan.spec, datetime.now(UTC))
    lost = export(tmp_path)
    assert lost.exit_code == 2
    assert "nothing was run there yet" in lost.output
    done = export(tmp_path, "--output", elsewhere)
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2
