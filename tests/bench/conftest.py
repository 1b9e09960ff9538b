"""Tests of the bench import their small task by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
