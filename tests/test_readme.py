"""The README's numbers are those of the committed results, and its file list is true."""

import re
from pathlib import Path

from harness.readme import filled

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_table_is_what_the_result_file_says():
    assert filled(README, ROOT) == README


def test_every_file_it_names_exists():
    layout = README.split("## What is where")[1]
    names = re.findall(r"\b[a-z_]+\.py\b", layout)
    assert names
    for name in names:
        assert list(ROOT.glob(f"*/{name}")), name
    for picture in re.findall(r"\]\((\S+\.png)\)", README):
        assert (ROOT / picture).exists(), picture
