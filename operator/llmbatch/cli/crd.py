"""`llmbatch crd`: the CustomResourceDefinition, for kubectl, Helm and GitOps repositories."""

from __future__ import annotations

import typer

from llmbatch.api.crd import custom_resource_definition


def crd_text() -> str:
    """Return the CustomResourceDefinition as YAML."""
    import yaml

    return "# Made from the models by `make generate`: do not edit.\n" + yaml.safe_dump(
        custom_resource_definition(), sort_keys=False, width=110, allow_unicode=True
    )


def crd() -> None:
    """Print the CustomResourceDefinition of LLMBatchJob."""
    typer.echo(crd_text(), nl=False)
