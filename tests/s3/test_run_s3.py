"""A whole run against an S3 server that throttles, answers 409 and loses answers: from a bucket into a bucket."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs import job
from llmbatch.runtime.storage import Folder
from runkit import ROOT
from s3kit import FaultProxy

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

PROGRAM = str(Path(sys.executable).parent / "llmbatch")
IDS = [f"row-{number:03d}" for number in range(300)]


def llmbatch(*arguments: str) -> str:
    done = subprocess.run([PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_from_a_bucket_into_a_bucket_through_faults(proxy: FaultProxy, tmp_path: Path) -> None:
    bucket = proxy.bucket()
    source = Folder(f"s3://{bucket}/in", proxy.storage)
    for part in range(3):
        lines = [
            json.dumps({"id": row_id, "text": f"text of {row_id}"}) for row_id in IDS[100 * part : 100 * part + 100]
        ]
        source.put(f"{part}.jsonl", ("\n".join(lines) + "\n").encode())
    storage = proxy.storage.to_wire()
    document = job(
        tmp_path,
        input={"uri": f"s3://{bucket}/in/*.jsonl", "format": "jsonl", "idField": "id", "storage": storage},
        output={"uri": f"s3://{bucket}/out", "format": "jsonl", "storage": storage},
        shardRows=8,
    )
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document.to_wire()))
    proxy.at_random(seed=7, rate=0.05)
    last = json.loads(llmbatch("run", str(path), "--json", "--object-store-mb", "150").splitlines()[-1])
    assert last["result"]["final"]["rows"] == len(IDS)
    assert proxy.faults.total() > 0
    llmbatch("export", str(path), str(tmp_path / "all.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert all(row["say"] and row["error"] is None for row in rows)
