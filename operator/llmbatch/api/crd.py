"""The CustomResourceDefinition of `LLMBatchJob`, made from the pydantic models.

The models stay the single source: bounds, defaults, enums, descriptions and CEL rules stand there. This module only
translates pydantic's JSON schema into the structural OpenAPI v3 schema that the API server takes (Kubernetes docs,
"Extend the Kubernetes API with CustomResourceDefinitions", section "Specifying a structural schema").
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from llmbatch.api.base import GROUP, KIND, VERSION
from llmbatch.api.job import JobName, LLMBatchJob

PLURAL = "llmbatchjobs"
MAX_BYTES = 250_000
"""Client-side apply keeps the whole object in an annotation of at most 262 144 bytes."""

UNSEEN = {"observedGeneration": -1}
"""Status of a job that the operator has not seen yet. Without one, kstatus takes an object for current at once and
Flux's health check expressions fail; so Flux's own CRDs have this default."""

_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)
"""JSON schema keywords that mean the same in a structural schema."""

_EMPTY: tuple[Any, ...] = (None, [], {})


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition, ready to be written as YAML or JSON."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["lbj"],
                "categories": ["ai", "batch"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": printer_columns(),
                    "selectableFields": [{"jsonPath": ".status.phase"}],
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def printer_columns() -> list[dict[str, Any]]:
    """Return the columns of `kubectl get lbj`; those of priority 1 appear with `-o wide`."""
    return [
        _column("Phase", "string", ".status.phase"),
        _column("Progress", "string", ".status.display.progress", "Rows committed, in percent"),
        _column("Rows", "string", ".status.display.rows", "Rows committed, of all"),
        _column("Workers", "string", ".status.display.workers", "Worker pods that are ready, of those wanted"),
        _column("Spot", "string", ".status.display.spot", "Share of the ready workers on spot capacity"),
        _column("Preemptions", "integer", ".status.preemptions.total", "Workers taken away since the job began"),
        _column("ETA", "string", ".status.display.eta", "Time left at the present rate"),
        _column("Age", "date", ".metadata.creationTimestamp"),
        _column("Failed", "integer", ".status.progress.rowsFailed", "Rows with an error", priority=1),
        _column("Attempt", "integer", ".status.attempt", "Runs of the driver", priority=1),
        _column("Cost", "number", ".status.estimatedCost", "Worker hours times the budget's prices", priority=1),
        _column("Model", "string", ".spec.stages[0].model.name", "Model of the first stage", priority=1),
    ]


def root_schema() -> dict[str, Any]:
    """Return the structural schema of the whole object."""
    document = LLMBatchJob.model_json_schema(by_alias=True)
    definitions = document["$defs"]
    root = _structural(document, definitions)
    properties = root["properties"]
    # The API server knows apiVersion, kind and metadata itself; it lets a schema bound only the name.
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {
        "type": "object",
        "properties": {"name": TypeAdapter(JobName).json_schema()},
    }
    properties["status"]["default"] = UNSEEN
    root["required"] = ["spec"]
    return root


def _column(
    name: str, kind: str, path: str, description: str | None = None, *, priority: int | None = None
) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    if description is not None:
        column["description"] = description
    if priority is not None:
        column["priority"] = priority
    return column


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema, nullable = _without_null(_inlined(schema, definitions), definitions)
    made = {key: schema[key] for key in _KEPT if key in schema}
    made |= {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema:
        made |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "items" in schema:
        made["items"] = _structural(schema["items"], definitions)
    default = _without_empty(schema.get("default"))
    if default not in _EMPTY:
        # Where null is allowed and is not the default it means "none", so the API server must keep it.
        made |= {"default": default} | ({"nullable": True} if nullable else {})
    if schema["type"] == "object":
        made |= _object(schema, definitions)
    return made


def _object(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "properties" in schema:
        return {"properties": {name: _structural(field, definitions) for name, field in schema["properties"].items()}}
    values = schema.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _structural(values, definitions)}


def _without_empty(default: Any) -> Any:
    # An object's default is spelled out, because the API server checks CEL rules on a default before it fills in the
    # fields below. Nulls, empty lists and empty maps are left out: they would only stand in every stored object.
    if not isinstance(default, dict):
        return default
    kept = {key: _without_empty(value) for key, value in default.items()}
    return {key: value for key, value in kept.items() if value not in _EMPTY}


def _inlined(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _without_null(schema: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    if "anyOf" not in schema:
        return schema, False
    [only] = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**_inlined(only, definitions), **rest}, True
