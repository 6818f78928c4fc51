"""The Ray Data pipeline of one attempt: read shards, drive them through the stages, commit each.

A shard leaves the source as one block. Where rows are fast, a stage takes several shards together; the commit takes
apart what came together and refuses a shard that is not whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.prompts import needed_fields
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.records import Commit, Manifest
from llmbatch.runtime.retries import mark_kept
from llmbatch.runtime.rows import SCHEMA, TOKEN_PARTS, tokens_in
from llmbatch.runtime.shards import ShardKey, Split
from llmbatch.runtime.stages import apply_stage

MAX_READ_TASKS = 2_000
"""Ray Data holds every read task in the driver, so splits share tasks above this. A lost block re-runs its
task: this bounds what is read again to 1/2000 of the input."""
READ_CPUS = 0.1
"""CPU a read task reserves: it waits for storage and for the stages most of the time."""
READS_AT_ONCE = 4
"""Read tasks that run at a time, at most: each is a process to start, and cuts 10^5 small rows a second."""
COMMIT_CPUS = 0.1
"""CPU a commit reserves: it waits for storage."""
COMMITS_AT_ONCE = 8
"""Commit tasks that run at a time, at most, each a process as well: some 80 shards a second with 0.1 s of storage
each."""

NEAR_THE_DRIVER = {"scheduling_strategy": "DEFAULT"}
"""Few nodes, the driver's first: Ray Data spreads tasks, and a commit on every node is a process to start on each, and
one to lose with it."""

COMMIT_SCHEMA = pa.schema([("commit", pa.string()), ("won", pa.bool_()), ("tokens", pa.list_(pa.int64()))])


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What a commit task tells the driver about one shard."""

    record: Commit
    """The commit that counts."""
    won: bool
    """Whether it is this attempt's."""
    tokens: tuple[int, ...]
    """Tokens read and generated in it, by stage."""


def build(
    spec: LLMBatchJobSpec, manifest: Manifest, splits: Sequence[Split], ledger: Ledger, cores: int | None = None
) -> Any:
    """Return the Ray dataset whose blocks are commit results, one row a shard.

    Args:
        spec: The job's spec.
        manifest: The input as it was when the job began.
        splits: What is left to read.
        ledger: Where shards are committed.
        cores: Processor cores, where all tasks share one machine: there a process too many costs more than it brings.
    """
    from ray.util.annotations import RayDeprecationWarning

    import ray

    keep = None if spec.output.keep_input else needed_fields(spec)
    groups = group_splits(splits, MAX_READ_TASKS)
    source = _source(groups, spec, manifest, keep, ledger)
    with warnings.catch_warnings():
        # Ray 2.60 names no other way to say NEAR_THE_DRIVER.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.read_datasource(
            source,
            override_num_blocks=len(groups),
            compute=ray.data.TaskPoolStrategy(size=min(READS_AT_ONCE, cores or READS_AT_ONCE)),
            num_cpus=READ_CPUS,
            ray_remote_args=dict(NEAR_THE_DRIVER),
        )
        for stage in spec.stages:
            dataset = apply_stage(dataset, stage, spec, (max(1, stage.replicas.min), stage.replicas.max))
        return dataset.map_batches(
            commit_block,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.TaskPoolStrategy(size=min(COMMITS_AT_ONCE, cores or COMMITS_AT_ONCE)),
            num_cpus=COMMIT_CPUS,
            **NEAR_THE_DRIVER,
            fn_kwargs={"ledger": ledger, "spec": spec},
        )


def group_splits(splits: Sequence[Split], most: int) -> list[tuple[Split, ...]]:
    """Divide splits into at most `most` runs of neighbours, of nearly equal count."""
    count = min(len(splits), most)
    if count == 0:
        return []
    bounds = [len(splits) * index // count for index in range(count + 1)]
    return [tuple(splits[start:stop]) for start, stop in pairwise(bounds)]


def _source(
    groups: Sequence[tuple[Split, ...]],
    spec: LLMBatchJobSpec,
    manifest: Manifest,
    keep: frozenset[str] | None,
    ledger: Ledger,
) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource.datasource import Datasource, ReadTask

    class Shards(Datasource):  # type: ignore[misc]
        """Read tasks that yield one block a shard."""

        def estimate_inmemory_data_size(self) -> int | None:
            """Unknown until the shards are cut."""
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            """Return one task a group, whatever parallelism Ray proposes."""
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(_Read(group, spec, manifest.shard_rows, keep, ledger), unknown) for group in groups]

    return Shards()


class _Read:
    """One read task: cuts the shards of some splits."""

    def __init__(
        self,
        splits: tuple[Split, ...],
        spec: LLMBatchJobSpec,
        shard_rows: int,
        keep: frozenset[str] | None,
        ledger: Ledger,
    ) -> None:
        self._splits = splits
        self._spec = spec
        self._shard_rows = shard_rows
        self._keep = keep
        self._ledger = ledger

    def __call__(self) -> Iterator[pa.Table]:
        for split in self._splits:
            for key, table in read_split_tables(split, self._spec.input, self._shard_rows, self._keep):
                if key.rows == 0:
                    # No row could carry it to the commit: a split without rows is committed where it is read.
                    write_shard(self._ledger, self._spec, key, SCHEMA.empty_table())
                else:
                    yield mark_kept(self._ledger, key, table)


def commit_block(block: pa.Table, *, ledger: Ledger, spec: LLMBatchJobSpec) -> pa.Table:
    """Commit every shard of a block, and return one row a shard: a `ShardResult` as `COMMIT_SCHEMA`.

    Raises:
        ShardSplitError: a shard in the block is not whole.
        OutputError: the output cannot be written.
    """
    import ray

    worker = ray.get_runtime_context().get_node_id()[:12]
    results = []
    for shard, table in _by_shard(block):
        result = write_shard(ledger, spec, shard, table, worker=worker)
        results.append((result, [_tokens(stage, table) for stage in spec.stages]))
    return pa.table(
        [
            [result.record.model_dump_json(by_alias=True) for result, _ in results],
            [result.won for result, _ in results],
            [tokens for _, tokens in results],
        ],
        schema=COMMIT_SCHEMA,
    )


def _tokens(stage: Stage, table: pa.Table) -> int:
    read, generated = (tokens_in(table, [stage.name], part) for part in TOKEN_PARTS)
    return int(pc.sum(pc.add(read, generated), min_count=0).as_py())


def _by_shard(block: pa.Table) -> Iterable[tuple[ShardKey, pa.Table]]:
    names = block.column("shard").to_pylist()
    if not names:
        return
    if names.count(names[0]) == len(names):
        yield ShardKey.parse(names[0]), block
        return
    ordered = block.sort_by("shard")
    start = 0
    for name, group in groupby(sorted(names)):
        count = sum(1 for _ in group)
        yield ShardKey.parse(name), ordered.slice(start, count)
        start += count


def results_of(block: pa.Table) -> list[ShardResult]:
    """Unpack a block that `commit_block` returned."""
    return [
        ShardResult(Commit.model_validate_json(row["commit"]), row["won"], tuple(row["tokens"]))
        for row in block.to_pylist()
    ]
