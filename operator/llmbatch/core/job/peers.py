"""Who may reach the pods of jobs besides their own: peers as a NetworkPolicy has them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from llmbatch.api.base import Document


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be a range of addresses such as 10.0.0.0/28, got {text!r}: {error}") from error
    return text


Cidr = Annotated[str, AfterValidator(_network)]


class IpBlock(Document):
    """A range of addresses."""

    cidr: Cidr
    """The range, such as 10.0.0.0/28."""
    but: Annotated[tuple[Cidr, ...], Field(alias="except")] = ()
    """Ranges within it that are left out."""


class LabelRequirement(Document):
    """One condition on a label."""

    key: Annotated[str, Field(min_length=1)]
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value is compared."""
    values: tuple[str, ...] = ()
    """What it is compared with, for In and NotIn."""


class LabelSelector(Document):
    """Labels that an object must have; an empty one selects all."""

    match_labels: dict[str, str] = {}
    """Labels with their values."""
    match_expressions: tuple[LabelRequirement, ...] = ()
    """Further conditions."""


class NetworkPeer(Document):
    """An entry of `from` in a NetworkPolicy: a range of addresses, or pods by their labels and their namespaces."""

    # The same rule as `_complete`, for the schema of the Helm chart's values.
    model_config = ConfigDict(
        json_schema_extra={
            "minProperties": 1,
            "if": {"required": ["ipBlock"]},
            "then": {"maxProperties": 1},
        }
    )

    ip_block: IpBlock | None = None
    """Addresses, as the pods see them."""
    namespace_selector: LabelSelector | None = None
    """Namespaces; left out, the job's."""
    pod_selector: LabelSelector | None = None
    """Pods of those namespaces; left out, all."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        selects = self.namespace_selector is not None or self.pod_selector is not None
        if (self.ip_block is not None) == selects:
            raise ValueError("must have either ipBlock, or namespaceSelector or podSelector or both of these")
        return self
