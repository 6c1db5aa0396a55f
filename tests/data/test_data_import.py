from __future__ import annotations

import subprocess
import sys


def test_importing_data_imports_no_optional_package() -> None:
    optional = ("torch", "sklearn", "pooch", "PIL", "matplotlib", "requests", "tqdm")
    code = f"import sys, bitwright.data; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
