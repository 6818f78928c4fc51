"""The reference pages in the repository are the ones that the code makes now."""

from pathlib import Path

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.cli.reference import cli_page, job_page

PAGES = Path(__file__).parents[3] / "docs" / "reference"


def test_the_committed_pages_are_the_made_ones() -> None:
    assert (PAGES / "llmbatchjob.md").read_text() == job_page(), "run python docs/make_reference.py"
    assert (PAGES / "cli.md").read_text() == cli_page(), "run python docs/make_reference.py"


def test_every_field_of_the_spec_and_every_verb_is_there() -> None:
    job = job_page()
    for name, field in LLMBatchJobSpec.model_fields.items():
        assert f"| `{field.alias or name}` |" in job
    cli = cli_page()
    for verb in ("run", "validate", "export", "clean", "submit", "status", "simulate"):
        assert f"## `llmbatch {verb}`" in cli
