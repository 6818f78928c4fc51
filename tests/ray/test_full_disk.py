"""A disk that fills up while a job runs: the error says so, what is committed stays, and room lets the job go on."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jobs import job
from runkit import ROOT, command, commits, rows_of, run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

IDS = [f"row-{number}" for number in range(400)]
SHARD_ROWS = 20
ROW_BYTES = 4_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB, of which an output of 400 rows takes more."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_the_run_by_name_and_keeps_what_is_committed(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"id": row_id, "text": os.urandom(ROW_BYTES // 2).hex()}) for row_id in IDS]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines) + "\n")
    output = {"uri": f"{disk}/out", "format": "parquet", "keepInput": True}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(tmp_path, output=output, shardRows=SHARD_ROWS).to_wire()))
    ended = subprocess.run(command(path, disk / "out"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert f"OutputError output.uri: '{disk}/out': No space left on device" in ended.stderr
    assert "free space there, or choose another place; what is committed stays" in ended.stderr
    assert "Traceback" not in ended.stderr
    before = commits(disk / "out")
    assert 0 < len(before) < len(IDS) / SHARD_ROWS
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    code, last = run(path, disk / "out")
    assert code == 0, last
    assert last["progress"]["shardsSkipped"] == len(before)
    after = commits(disk / "out")
    assert {name: after[name] for name in before} == before
    assert Counter(row["id"] for row in rows_of(disk / "out")) == Counter(IDS)
