"""Float weights from a file, into a plain network."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bitwright.errors import FileFormatError


def load_float_weights(path: Path, model: nn.Module) -> None:
    """Fill a plain model from a safetensors file of its state_dict, or from the checkpoint of a `float` run.

    Raises:
        FileFormatError: missing, truncated, or of another model.
    """
    if not path.is_file():
        raise FileFormatError("weights are a safetensors file", got="none", where=path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError("weights are a complete safetensors file", got=error, where=path) from error
    # a run's checkpoint names the model's tensors so, and holds the optimiser's too
    ours = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(ours or tensors)
    except RuntimeError as error:
        raise FileFormatError(
            "the weights fit the network",
            got=error,
            where=path,
            fix="same --model and --width? Only runs of the float recipe hold float weights",
        ) from error
