"""What is known of vLLM's arguments before it is loaded."""

from typing import Any

import pytest

from llmbatch.errors import SpecError
from llmbatch.runtime.engines.vllm import parallel_gpus


def test_an_engine_spreads_over_the_product_of_its_sizes() -> None:
    assert parallel_gpus({}) == 1
    assert parallel_gpus({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}) == 8


@pytest.mark.parametrize("size", ["two", None, 0, -1, 2.5, True])
def test_a_size_that_is_none_is_named(size: Any) -> None:
    with pytest.raises(SpecError, match=r"engineArgs\.tensor_parallel_size: .*: must be a whole number, at least 1"):
        parallel_gpus({"tensor_parallel_size": size})
