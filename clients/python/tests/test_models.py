"""The models are those of the API document."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_models_are_fresh() -> None:
    generator = Path(__file__).resolve().parents[1] / "tools" / "generate_models.py"
    stale = subprocess.run([sys.executable, generator, "--check"], check=False).returncode
    assert stale == 0, "src/fetchml/models.py is stale: run `cargo xtask openapi`"
