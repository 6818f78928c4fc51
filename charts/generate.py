"""Write what the chart takes from the models, and its README.md: `make generate`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from testbed import binaries

from llmbatch.cli.crd import crd_text
from llmbatch.core.job.snapshot import OperatorSettings

HERE = Path(__file__).parent
CHART = HERE / "llmbatch"
CRD = CHART / "templates" / "crd-llmbatchjobs.yaml"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
OWN_VALUES = ("image", "imagePullPolicy", "imagePullSecrets", "operatorNamespace", "signals")
"""Settings that have values of their own, or follow from the release."""

_METADATA = """metadata:
  labels: {{- include "llmbatch.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def crd_template() -> str:
    """Return the CustomResourceDefinition as a template."""
    text = crd_text().replace("{{", "{{ `{{` }}").replace("\nmetadata:\n", f"\n{_METADATA}", 1)
    return f"{{{{- if .Values.crds.enabled }}}}\n{text}{{{{- end }}}}\n"


def values_schema() -> dict[str, Any]:
    """Return the JSON schema of the values."""
    schema: dict[str, Any] = yaml.safe_load((HERE / "values.schema.yaml").read_text(encoding="utf-8"))
    settings = OperatorSettings.model_json_schema(by_alias=True)
    signals = {"description": "See docs/preemption.md.", **settings["properties"]["signals"]}
    settings["properties"] = {name: field for name, field in settings["properties"].items() if name not in OWN_VALUES}
    schema["$defs"] |= settings.pop("$defs")
    schema["properties"] |= {"settings": settings, "signals": signals}
    return schema


def schema_text() -> str:
    """Return values.schema.json."""
    return json.dumps(values_schema(), indent=2) + "\n"


def readme_text() -> str:
    """Return README.md, as helm-docs makes it from README.md.gotmpl, Chart.yaml and values.yaml, with the settings."""
    options = ["--dry-run", "--log-level=warning", "--sort-values-order=file", f"--chart-search-root={CHART}"]
    done = subprocess.run([binaries.path("helm-docs"), *options], check=True, capture_output=True, text=True)
    return f"{done.stdout.rstrip()}\n\n{_settings_table()}"


def _settings_table() -> str:
    lines = ["## settings", "", "| Key | Default | Description |", "|---|---|---|"]
    for name, field in sorted(values_schema()["properties"]["settings"]["properties"].items()):
        default = "" if field["default"] is None else f"`{json.dumps(field['default'])}`"
        lines.append(f"| {name} | {default} | {field['description']} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    CRD.write_text(crd_template(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    README.write_text(readme_text(), encoding="utf-8")
