"""What README and quickstart say, done: from an empty cluster to the output and a filled dashboard, and back.

It leaves `out/dashboard.png`, the picture of the documents.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from draw_dashboard import ask, draw, sent

from chartkit import NAMESPACE, Cluster, complaints
from promkit import has_data, panels, program, wait_for_scrape
from walkkit import JOB, QUICKSTART, ROOT, Walk

pytestmark = [pytest.mark.chart, pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]
ROWS = 360
DRAINS = {"clean": 1, "late": 0, "missed": 0}
WINDOW = "30s"
CRD = "customresourcedefinition/llmbatchjobs.llmbatch.dev"


def test_a_new_user_gets_what_the_documents_promise(cluster: Cluster, tmp_path: Path) -> None:
    program("prometheus")
    cluster.kubectl("delete", CRD, "--ignore-not-found", "--timeout=3m")
    walk = Walk(cluster)
    with walk.scraped(tmp_path, seconds=1) as url:
        began = time.time()
        walk.to_complete(lambda: walk.show_run(tmp_path, url))
        wait_for_scrape(url, after=time.time())
        span = (began, time.time())
        empty = [
            f"{title}: {query}"
            for title, queries in panels()
            for query in queries
            if not has_data(ask(url, sent(query, WINDOW), *span, step=1))
        ]
        assert not empty
        draw(url, *span, WINDOW, ROOT / "out/dashboard.png")
        [progress] = ask(url, "max_over_time(llmbatch_rows_total{result='succeeded',job_name=''}[10m])", *span, step=1)
        assert 0 < float(progress["values"][-1][1]) <= ROWS
        drains = ask(url, "max by (outcome) (max_over_time(llmbatch_drains_total[10m]))", *span, step=1)
        assert {one["metric"]["outcome"]: int(one["values"][-1][1]) for one in drains} == DRAINS
    status = walk.status()
    assert (status["attempt"], status["progress"]["rowsCompleted"], status["preemptions"]["total"]) == (1, ROWS, 1)
    assert complaints(cluster, NAMESPACE) == []
    lines = (ROOT / "out/summaries.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == ROWS

    assert JOB in walk.follow(QUICKSTART, "Uninstall")
    cluster.wait(lambda: cluster.kubectl("get", "pods", "--all-namespaces", "--output=name") == "")
    assert walk.status() == status
    cluster.kubectl("delete", "llmbatchjobs", "--all", "--timeout=3m")
