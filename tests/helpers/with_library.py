"""`python -m tests.helpers.with_library LIBRARY …`: pytest on a library compiled otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.kernels.cpu import native

if __name__ == "__main__":
    native.SHARED_OBJECT = Path(sys.argv[1])
    sys.exit(pytest.main(sys.argv[2:]))
