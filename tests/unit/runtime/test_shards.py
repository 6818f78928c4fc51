"""Shard keys, and planning what is left to do from them alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.errors import InternalError
from llmbatch.runtime.shards import PARQUET_SPLITS, InputFile, ShardKey, plan_splits
from readerkit import source

keys = st.builds(
    ShardKey,
    file=st.integers(0, 10**8 - 1),
    split=st.integers(0, 10**5 - 1),
    seq=st.integers(0, 10**6 - 1),
    end=st.integers(0, 2**50),
    rows=st.integers(0, 100_000),
    last=st.booleans(),
)
PLAIN = source("in/*.jsonl", id_field="id")


def file(index: int, size: int, path: str = "a.jsonl") -> InputFile:
    return InputFile(index, path, f"in/{path}", size, None)


def key(split: int, seq: int, *, last: bool = False, index: int = 0, end: int | None = None) -> ShardKey:
    return ShardKey(index, split, seq, seq + 1 if end is None else end, 1, last)


@given(keys)
def test_a_key_survives_its_text(shard: ShardKey) -> None:
    assert ShardKey.parse(str(shard)) == shard


@given(st.lists(keys, min_size=2, max_size=2, unique_by=lambda shard: (shard.file, shard.split, shard.seq)))
def test_the_texts_of_shards_sort_as_the_shards(pair: list[ShardKey]) -> None:
    assert sorted(pair) == sorted(pair, key=str)


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3.4.5.m", "00000000.00000.000000.0.1.x", "00000000.00000.000000.0X1.1.m"]
)
def test_another_name_is_not_taken_for_a_key(text: str) -> None:
    with pytest.raises(InternalError, match="not a shard key"):
        ShardKey.parse(text)


@given(size=st.integers(0, 5000), split_bytes=st.integers(1, 900))
def test_splits_cover_each_byte_once(size: int, split_bytes: int) -> None:
    splits = plan_splits([file(0, size)], PLAIN, [], split_bytes)
    assert [split.index for split in splits] == list(range(len(splits)))
    assert splits[0].start == 0
    assert splits[-1].stop is None
    assert [split.stop for split in splits[:-1]] == [split.start for split in splits[1:]]
    assert all(split.stop - split.start == split_bytes for split in splits[:-1] if split.stop is not None)


@pytest.mark.parametrize(
    ("path", "job_input", "count"),
    [
        ("a.jsonl", source("*", id_field="id"), 10),
        ("a.jsonl", source("*", "openai"), 10),
        ("a.jsonl", source("*"), 1),
        ("a.jsonl.gz", source("*", id_field="id"), 1),
        ("a.JSONL.ZST", source("*", id_field="id"), 1),
        ("a.csv", source("*", "csv", id_field="id"), 1),
        ("a.parquet", source("*", "parquet"), -(-10 // PARQUET_SPLITS)),
    ],
)
def test_only_what_can_be_read_from_the_middle_is_split(path: str, job_input: object, count: int) -> None:
    assert len(plan_splits([file(0, 1000, path)], job_input, [], 100)) == count


def test_a_split_is_done_when_all_its_shards_up_to_the_last_are_committed() -> None:
    committed = [key(0, 0), key(0, 1), key(0, 2, last=True), key(1, 1, last=True)]
    random.Random(1).shuffle(committed)
    left = plan_splits([file(0, 250)], PLAIN, committed, 100)
    assert [split.index for split in left] == [1, 2]
    assert [split.committed for split in left] == [(key(1, 1, last=True),), ()]


@given(st.permutations([key(split, seq, last=seq == 3) for split in range(3) for seq in range(4)]), st.integers(0, 12))
def test_the_order_of_the_listing_does_not_matter(order: list[ShardKey], count: int) -> None:
    committed = order[:count]
    left = plan_splits([file(0, 250)], PLAIN, [*committed, *committed], 100)
    assert left == plan_splits([file(0, 250)], PLAIN, sorted(committed), 100)
    assert {shard for split in left for shard in split.committed} <= set(committed)


def test_two_shards_for_the_same_rows_are_refused() -> None:
    with pytest.raises(InternalError, match="committed for the same rows"):
        plan_splits([file(0, 250)], PLAIN, [key(0, 0, end=10), key(0, 0, end=20)], 100)
