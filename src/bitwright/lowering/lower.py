"""lower: from a quantised module to an integer network that computes the same codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.integer import Network
from bitwright.lowering.check import check
from bitwright.lowering.emit import Lowered, emit
from bitwright.nn import link_folds
from bitwright.quantize import evaluating
from bitwright.recipes import is_quantised


def lower(model: nn.Module, example: torch.Tensor, meta: Mapping[str, Any] | None = None) -> Network:
    """The integer network of a quantised model.

    Args:
        model: as `quantize_` left it, trained or not. It is read in eval mode and left as it was.
        example: one batch of inputs; only its shape counts.
        meta: JSON values to travel with the network (preprocessing, class names...).

    Raises:
        InvalidValueError: the model is not quantised.
        NotLowerableError: a layer's operands have no format of integers, or an operation is not supported;
            the message names it.
    """
    return lowered(model, example, meta).network


def lowered(model: nn.Module, example: torch.Tensor, meta: Mapping[str, Any] | None = None) -> Lowered:
    """The same, and which of its tensors each slot of the model sees."""
    if not is_quantised(model):
        raise InvalidValueError(
            "lower takes a quantised model",
            got=f"a plain {type(model).__name__}",
            fix="call bitwright.quantize_(model, recipe) first",
        )
    if not isinstance(example, torch.Tensor) or example.dim() < 2:
        raise InvalidValueError("example is a batch of inputs: a tensor with a batch axis", got=example)
    with evaluating(model), torch.no_grad():
        graph = link_folds(model)
        check(graph)
        return emit(graph, tuple(example.shape[1:]), meta or {})
