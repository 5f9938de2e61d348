"""The path of this checkout, and the import path of processes that a test starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"

# A started process finds the checkout, the suites and this folder too, before what this process finds.
PYTHONPATH = os.pathsep.join(
    dict.fromkeys([str(ROOT), str(TESTS / "suites"), str(TESTS / "support"), *(path for path in sys.path if path)])
)
