"""The CustomResourceDefinition in the repository is the one of the models, and fits client-side apply."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

import crdcases
from llmbatch.api.crd import MAX_BYTES, custom_resource_definition
from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.cli.main import app

COMMITTED = Path(__file__).parents[3] / "crds" / "llmbatch.dev_llmbatchjobs.yaml"


def test_the_committed_definition_is_the_printed_one() -> None:
    printed = CliRunner().invoke(app, ["crd"])
    assert printed.exit_code == 0
    assert COMMITTED.read_text() == printed.output, "run `make generate`"
    assert yaml.safe_load(printed.output) == custom_resource_definition()


def test_it_fits_the_annotation_of_client_side_apply() -> None:
    assert len(json.dumps(custom_resource_definition())) < MAX_BYTES


@pytest.mark.parametrize("change", crdcases.ACCEPTED.values(), ids=crdcases.ACCEPTED.keys())
def test_the_models_accept_what_users_write(change: dict[str, object]) -> None:
    LLMBatchJobSpec.model_validate(crdcases.spec(change))


@pytest.mark.parametrize("case", crdcases.REFUSED, ids=str)
def test_the_models_refuse_what_the_definition_refuses(case: crdcases.Refused) -> None:
    with pytest.raises(ValidationError):
        LLMBatchJobSpec.model_validate(crdcases.spec(case.change))
