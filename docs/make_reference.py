"""Write the pages below docs/reference from the models, the metrics and the command: python docs/make_reference.py."""

# ruff: noqa: INP001

from pathlib import Path

import yaml

from llmbatch.cli.reference import cli_page, job_page, metrics_page

DOCS = Path(__file__).parent
PAGES = DOCS / "reference"
EXAMPLE = DOCS.parent / "examples" / "every-field.yaml"

if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    (PAGES / "llmbatchjob.md").write_text(job_page(yaml.safe_load(EXAMPLE.read_text())), encoding="utf-8")
    (PAGES / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    (PAGES / "cli.md").write_text(cli_page(), encoding="utf-8")
