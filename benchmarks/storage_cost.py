"""What a job costs in objects, requests and LIST pages, by rows and shard size: a formula, nothing is run.

    python benchmarks/storage_cost.py

The requests a shard makes are those the tests see on the wire: PUT part, HEAD part, PUT commit. A resume lists
the commits and reads each one once; the end lists commits and parts and reads each commit once. Prices are S3
S3 Standard long had in us-east-1, in dollars: look up your own.
"""

from __future__ import annotations

PUT_PRICE = 5.0e-6
"""Dollars for a PUT or LIST."""
GET_PRICE = 0.4e-6
"""Dollars for a GET or HEAD."""
PAGE = 1000
"""Objects a LIST answers with."""


def costs(rows: int, shard_rows: int) -> dict[str, float]:
    """Objects and requests of one job without failures, and of one resume."""
    shards = -(-rows // shard_rows)
    pages = -(-shards // PAGE)
    writes = 2 * shards + 3 * pages
    reads = 2 * shards
    return {
        "rows": rows,
        "shardRows": shard_rows,
        "shards": shards,
        "objects": 2 * shards,
        "resume_pages": pages,
        "job_dollars": writes * PUT_PRICE + reads * GET_PRICE,
        "resume_dollars": pages * PUT_PRICE + shards * GET_PRICE,
    }


def main() -> None:
    print("| rows | shardRows | shards | objects | LIST pages of a resume | requests of the job | of a resume |")
    print("|---|---|---|---|---|---|---|")
    for rows in (10**6, 10**7, 10**8, 10**9):
        for shard_rows in (256, 4096, 10_000):
            cost = costs(rows, shard_rows)
            print(
                f"| 10^{len(str(rows)) - 1} | {shard_rows} | {cost['shards']:,} | {cost['objects']:,} | "
                f"{cost['resume_pages']:,} | ${cost['job_dollars']:,.2f} | ${cost['resume_dollars']:,.3f} |"
            )


if __name__ == "__main__":
    main()
