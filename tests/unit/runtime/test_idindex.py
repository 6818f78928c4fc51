"""The index of id hashes: finds every repetition, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.runtime import idindex
from llmbatch.runtime.idindex import NO_ID, IdIndex, decode_hashes, encode_hashes, hash_id


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=25), st.integers(1, 20))
def test_a_hash_is_suspected_exactly_when_it_is_there_twice(shards, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idindex, "BATCH_ROWS", batch)
        index = IdIndex()
        suspects: set[int] = set()
        for number, values in enumerate(shards):
            suspects |= set(index.add(str(number), np.array(values, dtype=np.uint64)).tolist())
        suspects |= set(index.flush().tolist())
    counts = Counter(value for values in shards for value in values if value != NO_ID)
    assert suspects == {value for value, count in counts.items() if count > 1}
    assert len(index) == len(counts)


def test_a_shard_counts_once():
    index = IdIndex()
    hashes = np.array([1, 2, 3], dtype=np.uint64)
    index.add("a", hashes)
    index.add("a", hashes)
    assert index.flush().tolist() == []
    assert len(index) == 3


def test_runs_stop_merging_at_the_bound(monkeypatch):
    monkeypatch.setattr(idindex, "LARGEST_RUN", 64)
    monkeypatch.setattr(idindex, "BATCH_ROWS", 10)
    index = IdIndex()
    values = np.random.default_rng(0).permutation(1000).astype(np.uint64) + np.uint64(1)
    for start in range(0, 1000, 10):
        assert index.add(str(start), values[start : start + 10]).tolist() == []
    assert len(index) == 1000
    assert max(map(len, index._runs)) <= 64
    assert sorted(index.add("again", values).tolist()) == sorted(values.tolist())


def test_the_memory_stays_and_the_folder_is_empty_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    index = IdIndex()
    values = np.random.default_rng(0).permutation(4 * idindex.BATCH_ROWS).astype(np.uint64) + np.uint64(1)
    IdIndex().add("the first call imports more of numpy", values)
    tracemalloc.start()
    index.add("a", values)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == len(values)
    assert held < values.nbytes / 100
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_says_so():
    script = """
import resource, signal
import numpy as np
from llmbatch.errors import OutputError
from llmbatch.runtime.idindex import BATCH_ROWS, IdIndex
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    IdIndex().add("a", np.arange(1, BATCH_ROWS + 1, dtype=np.uint64))
except OutputError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.startswith("TMPDIR: ")
    assert "File too large: finding repeated ids takes 16 bytes of disk a row" in told


@given(st.lists(st.text()))
def test_hashes_survive_the_commit_record(ids):
    assert decode_hashes(encode_hashes(ids)).tolist() == [hash_id(row_id) for row_id in ids]


def test_an_empty_id_is_no_id():
    assert hash_id("") == NO_ID


def test_hashes_are_the_same_on_every_machine():
    assert hash_id("a") == 3405396810240292928
