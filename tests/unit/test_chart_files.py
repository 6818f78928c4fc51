"""What the Helm chart takes from the models is what the models say."""

from chartkit import chart_generator

generate = chart_generator()


def test_the_definition_in_the_chart_is_the_generated_one() -> None:
    assert generate.CRD.read_text() == generate.crd_template(), "run `make generate`"


def test_the_schema_of_the_values_is_the_generated_one() -> None:
    assert generate.SCHEMA.read_text() == generate.schema_text(), "run `make generate`"
