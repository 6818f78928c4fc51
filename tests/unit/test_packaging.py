"""The folder `operator/` must never shadow the standard library's module of that name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_operator_folder_holds_packages_only() -> None:
    assert [path.name for path in (ROOT / "operator").glob("*.py")] == []


def test_python_in_the_repo_root_finds_the_standard_operator() -> None:
    code = "import operator, collections, sysconfig;print(operator.__file__.startswith(sysconfig.get_path('stdlib')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_the_models_need_pydantic_only() -> None:
    code = (
        "import sys, llmbatch.api.job, llmbatch.api.progress;"
        "print([m for m in ('ray', 'kopf', 'kubernetes', 'pyarrow', 'obstore', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
