"""The index of id hashes: finds every repetition, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.runtime import idindex
from llmbatch.runtime.idindex import NO_ID, IdIndex, decode_hashes, encode_hashes, hash_id


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=25))
def test_a_hash_is_suspected_exactly_when_it_was_seen(shards):
    index = IdIndex()
    seen: set[int] = set()
    for number, values in enumerate(shards):
        repeated = {value for value in values if value != NO_ID and values.count(value) > 1}
        suspects = index.add(str(number), np.array(values, dtype=np.uint64))
        assert {suspect.hash for suspect in suspects} == repeated | (set(values) - {NO_ID}) & seen
        for suspect in suspects:
            assert suspect.later == str(number)
            assert suspect.hash in shards[int(suspect.earlier)]
        seen |= set(values) - {NO_ID}


def test_a_shard_counts_once():
    index = IdIndex()
    hashes = np.array([1, 2, 3], dtype=np.uint64)
    assert index.add("a", hashes) == []
    assert index.add("a", hashes) == []
    assert len(index) == 3


def test_runs_stop_merging_at_the_bound(monkeypatch):
    monkeypatch.setattr(idindex, "LARGEST_RUN", 64)
    index = IdIndex()
    values = np.random.default_rng(0).permutation(1000).astype(np.uint64) + 1
    for start in range(0, 1000, 10):
        assert index.add(str(start), values[start : start + 10]) == []
    assert len(index) == 1000
    assert max(len(hashes) for hashes, _ in index._runs) <= 64
    again = index.add("again", values)
    assert len(again) == 1000


@given(st.lists(st.text()))
def test_hashes_survive_the_commit_record(ids):
    assert decode_hashes(encode_hashes(ids)).tolist() == [hash_id(row_id) for row_id in ids]


def test_an_empty_id_is_no_id():
    assert hash_id("") == NO_ID


def test_hashes_are_the_same_on_every_machine():
    assert hash_id("a") == 3405396810240292928
