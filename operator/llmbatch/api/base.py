"""What every llmbatch document shares: frozen, camelCase on the wire, unknown fields refused where a user writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Strict
from pydantic.alias_generators import to_camel

GROUP = "llmbatch.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMBatchJob"


class Document(BaseModel):
    """Base of every document that crosses a border between two parts of llmbatch."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def from_wire(cls, document: str | bytes | Mapping[str, Any]) -> Self:
        """Return what another part of llmbatch wrote, maybe of a later version: fields that are new are left out.

        What a user writes is validated instead, where a field that nobody knows is a mistake.

        Raises:
            ValidationError: the fields that are known do not hold what they should.
        """
        if isinstance(document, str | bytes):
            return cls.model_validate_json(document, extra="ignore")
        return cls.model_validate(document, extra="ignore")

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON-ready camelCase form, without the fields that were left unset or null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StrictDocument(Document):
    """Base of what a user writes: a number in quotes is no number, as the API server sees it, nor is `.inf`."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


_Item = TypeVar("_Item")
Items = Annotated[tuple[_Item, ...], Strict(False)]
"""A list of a `StrictDocument`: the list itself may be a Python list, its items are strict."""


def cel(rule: str, message: str, *, field_path: str | None = None) -> dict[str, Any]:
    """Return one `x-kubernetes-validations` entry.

    Rules that the API server checks and that pydantic cannot see (transitions) or checks too are kept beside
    the model they belong to, in its `json_schema_extra`.
    """
    entry = {"rule": rule, "message": message}
    if field_path is not None:
        entry["fieldPath"] = field_path
    return entry
