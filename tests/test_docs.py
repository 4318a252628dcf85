"""The documentation says what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no docs beside the tests")


def test_the_command_line_reference_is_up_to_date():
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr + " (run: python scripts/reference.py)"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_docs_exist(page):
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for line in re.findall(r"^\$ (spolia .*)$", page.read_text(), re.M):
        words = line.split()
        assert f"# spolia {words[1]}" in reference, line
        for option in re.findall(r" (--[a-z0-9-]+)", line):
            assert f"`{option}`" in reference, line
