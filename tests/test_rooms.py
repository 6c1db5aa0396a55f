"""The house: rooms import only rooms before them; importing bitwright costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "bitwright"
ROOMS = [
    "kernels",
    "formats",
    "terms",
    "quantize",
    "nn",
    "optim",
    "recipes",
    "integer",
    "lowering",
    "analysis",
    "allocate",
    "data",
    "models",
    "training",
    "export",
    "hardware",
    "experiments",
    "cli",
]
OPTIONAL = ["matplotlib", "sklearn", "pooch", "tensorboard", "onnx", "onnxruntime", "PIL", "scipy", "jinja2"]


def imported_rooms(tree):
    """The rooms that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "bitwright":
            names = [f"bitwright.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "bitwright" and len(parts) > 1:
                yield parts[1]


def files():
    return [p for p in SOURCE.rglob("*.py") if len(p.relative_to(SOURCE).parts) > 1]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_before_it(path):
    room = path.relative_to(SOURCE).parts[0]
    rank = ROOMS.index(room)  # an unknown room has no place yet
    for other in imported_rooms(ast.parse(path.read_text())):
        if other not in ("errors", "__version__"):
            assert other in ROOMS, f"{path.name} imports {other}, which is no room"
            # integer stands on its own: it may use what has no torch
            assert ROOMS.index(other) <= rank, f"{room} imports {other}, which comes after it"


def test_the_check_can_fail():
    assert list(imported_rooms(ast.parse("from bitwright import cli, errors"))) == ["cli", "errors"]
    assert list(imported_rooms(ast.parse("def f():\n    from bitwright.nn.fold import Fold"))) == ["nn"]
    assert list(imported_rooms(ast.parse("import bitwright.training.loop as l"))) == ["training"]


def loaded(statement):
    """The modules that a fresh interpreter holds after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_bitwright_imports_neither_torch_nor_numpy():
    assert loaded("import bitwright").isdisjoint({"torch", "numpy", "rich", "click", *OPTIONAL})


def test_integer_imports_no_torch():
    modules = loaded("import bitwright.integer, bitwright.kernels, bitwright as bw; bw.load; bw.Network")
    assert "numpy" in modules
    assert modules.isdisjoint({"torch", *OPTIONAL})


def test_an_integer_network_runs_without_torch():
    statement = """
import numpy as np
from bitwright.formats import Binary, Fixed
from bitwright.integer import Codes, Input, Linear, Network, Output
w = Codes.pack(Binary(), np.ones((2, 3), np.int64))
ones = np.ones(2, np.int64)
first, last = Input("input", "", (3,), Fixed(8, 7), 2**-7), Output("output", "fc", ones, ones, 0)
n = Network([first, Linear("fc", "input", w), last])
x = np.full((1, 3), 0.5, np.float32)
assert n(x).tolist() == n(x, backend="interpreter").tolist() == [[193.0, 193.0]]
import sys; print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True)
    assert "torch" not in {name.split(".")[0] for name in done.stdout.split()}


def test_every_room_imports_without_optional_packages():
    rooms = sorted({p.relative_to(SOURCE).parts[0] for p in files()})
    modules = loaded("; ".join(f"import bitwright.{room}" for room in rooms))
    assert modules.isdisjoint(set(OPTIONAL) - {"jinja2"})  # torch may bring jinja2


def test_importing_compiles_nothing():
    # no compiler is started, and nothing is written
    code = (
        "import subprocess, os; subprocess.Popen = os.system = None; "
        "import bitwright, bitwright.kernels, bitwright.quantize, bitwright.recipes"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_public_names_resolve():
    import bitwright as bw

    for name in bw.__all__:
        assert getattr(bw, name) is not None
    assert set(bw.__all__) <= set(dir(bw))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bw.no_such_name
