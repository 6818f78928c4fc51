"""Write the pages below docs/reference from the models and the command: python docs/make_reference.py."""

# ruff: noqa: INP001

from pathlib import Path

from llmbatch.cli.reference import cli_page, job_page

PAGES = Path(__file__).parent / "reference"

if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    (PAGES / "llmbatchjob.md").write_text(job_page(), encoding="utf-8")
    (PAGES / "cli.md").write_text(cli_page(), encoding="utf-8")
