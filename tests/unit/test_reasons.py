"""Operations says what to do for every reason that a condition can have."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

from llmbatch.api.conditions import ConditionType
from llmbatch.core.job.outcome import FINAL_ERRORS
from llmbatch.core.job.phase import Phase
from llmbatch.core.job.stall import BROKEN

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "operator/llmbatch/core/job"
PAGE = (ROOT / "docs/operations.md").read_text()
NO_REASONS = {"Image", "Normal", "Warning", "Secret", "True", "False", "Unknown"}
"""Words of that form in these modules that are none: half a name, types of events, kinds, values."""
ACTIONS_AND_SETTINGS = ("peers.py", "plan.py", "snapshot.py")
"""Modules whose words are names of actions and values of Kubernetes' and Ray's own fields."""


def words_in_the_code() -> set[str]:
    found = set()
    for file in CODE.glob("*.py"):
        if file.name in ACTIONS_AND_SETTINGS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\A[A-Z][a-z]+[A-Za-z]*\Z", node.value))
    return found - NO_REASONS - set(get_args(ConditionType)) - set(get_args(Phase))


def test_every_reason_is_in_the_page() -> None:
    reasons = words_in_the_code() | FINAL_ERRORS | BROKEN
    assert "NoProgress" in reasons
    missing = {reason for reason in reasons if f"`{reason}`" not in PAGE}
    assert not missing, "docs/operations.md says nothing of these"


def test_the_page_names_no_reason_that_is_none() -> None:
    rows = re.findall(r"^\|(.*)\|$", PAGE[PAGE.index("## Reasons") : PAGE.index("## Events")], re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([A-Z][a-z]+[A-Z]\w*)`", row)}
    known = words_in_the_code() | FINAL_ERRORS | BROKEN | set(get_args(ConditionType)) | {"RayCluster"}
    assert named <= known
