"""The README as its readers use it."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")


def programs() -> list[str]:
    """The Python programs in it."""
    return re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
