"""bitwright doctor: what this machine and this installation have."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import click

from bitwright import __version__
from bitwright.cli.common import console

OPTIONAL = {
    "matplotlib": "pictures",
    "scikit-learn": "the digits data set",
    "pooch": "downloads",
    "tensorboard": "curves",
    "pillow": "reading images",
    "onnx": "bench beside ONNX Runtime",
    "onnxruntime": "bench beside ONNX Runtime",
}


@click.command("doctor")
def command() -> None:
    """Show version, instruction sets, kernels, threads, packages and data found."""
    import torch

    from bitwright import data as data_room
    from bitwright.kernels import ISA_VARIABLE, describe

    kernels = describe()
    _line("bitwright", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    _line(
        "torch",
        f"{torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors",
    )
    forced = f" (forced by {ISA_VARIABLE})" if os.environ.get(ISA_VARIABLE) else ""
    _line("engine", f"{kernels['isa']}{forced}; this machine runs {', '.join(kernels['isas'])}")
    for operation, kernel in kernels["kernels"].items():
        _line("", f"{operation}: {kernel}")
    features = kernels["cpu_features"]
    _line("processor", " ".join(features) if features else "no vector features seen")
    for package, purpose in OPTIONAL.items():
        try:
            _line(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            _line(package, f"not installed ({purpose})")
    _line("data", os.environ.get("BITWRIGHT_DATA", "BITWRIGHT_DATA is not set"))
    for name in data_room.names():
        location = data_room.locate(name)
        missing = [file for file, path in location.found.items() if path is None]
        _line(
            name,
            "complete" if location.complete else f"missing {', '.join(missing)}; {location.remedy}",
        )


def _line(label: str, text: str) -> None:
    console.print(f"{label:<14}{text}", markup=False, soft_wrap=True)
