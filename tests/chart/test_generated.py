"""What the chart takes from the models is what the models say."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from chartkit import CHART, CI_VALUES, chart_generator, helm, render
from llmbatch import __version__
from llmbatch.api.crd import custom_resource_definition
from llmbatch.api.job import LLMBatchJob

generate = chart_generator()
pytestmark = pytest.mark.chart
ROOT = CHART.parents[1]


def test_the_readme_is_the_generated_one() -> None:
    assert generate.README.read_text() == generate.readme_text(), "run `make generate`"


def test_the_charts_definition_is_the_one_in_crds() -> None:
    definition = render().one("CustomResourceDefinition")
    del definition["metadata"]["labels"], definition["metadata"]["annotations"]
    assert definition == custom_resource_definition()
    assert definition == yaml.safe_load((ROOT / "crds" / "llmbatch.dev_llmbatchjobs.yaml").read_text())


def test_every_value_is_described() -> None:
    readme = (CHART / "README.md").read_text()
    rows = re.findall(r"^\| (\S+) \| .* \| (.*) \|$", readme, re.MULTILINE)
    assert not [key for key, description in rows if not description.strip()]


def test_every_value_has_a_place_in_the_schema() -> None:
    def missing(values: dict, schema: dict, path: str) -> list[str]:
        properties = schema.get("properties")
        if properties is None:
            return []
        found = []
        for name, value in values.items():
            field = properties.get(name)
            if field is None:
                found.append(f"{path}{name}")
            elif isinstance(value, dict):
                found += missing(value, field, f"{path}{name}.")
        return found

    schema = generate.values_schema()
    assert missing(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "") == []


def test_one_version_everywhere() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert {image["image"].rpartition(":")[2] for image in images} == {__version__}


def test_artifact_hub_can_read_the_annotations() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    [crd] = yaml.safe_load(annotations["artifacthub.io/crds"])
    definition = custom_resource_definition()
    assert crd["name"] == definition["metadata"]["name"]
    assert crd["version"] == definition["spec"]["versions"][0]["name"]
    for example in yaml.safe_load(annotations["artifacthub.io/crdsExamples"]):
        LLMBatchJob.model_validate(example)
    for change in yaml.safe_load(annotations["artifacthub.io/changes"]):
        assert change["kind"] in {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert (CHART / "icon.svg").read_text().startswith("<svg")


def test_there_are_values_for_ci() -> None:
    assert len(CI_VALUES) >= 5


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_helm_lints_it(values: Path) -> None:
    helm("lint", CHART, "--strict", "--values", values)


def test_the_package_holds_what_a_user_needs(tmp_path: Path) -> None:

    helm("package", CHART, "--destination", tmp_path)
    with tarfile.open(tmp_path / f"llmbatch-{__version__}.tgz") as package:
        names = set(package.getnames())
    assert {"llmbatch/README.md", "llmbatch/values.schema.json", "llmbatch/files/alerts.yaml"} <= names
    assert not [name for name in names if "/ci/" in name or name.endswith(".gotmpl")]


def test_the_dashboard_and_the_alerts_parse() -> None:
    objects = render({"metrics": {"dashboard": {"enabled": True}, "prometheusRule": {"enabled": True}}})
    dashboard = json.loads(objects.one("ConfigMap", "-dashboard")["data"]["llmbatch.json"])
    assert dashboard == json.loads((CHART / "files" / "dashboard.json").read_text())
    rules = objects.one("PrometheusRule")["spec"]
    assert rules == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
