"""lower: from a quantised module to an integer network that computes the same codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, overload

import torch
from torch import nn

from bitwright.errors import InvalidValueError, unknown_name
from bitwright.integer import Network
from bitwright.lowering.check import check
from bitwright.lowering.emit import Lowered, emit
from bitwright.lowering.islands import Chain
from bitwright.nn import link_folds
from bitwright.quantize import evaluating, quantizers
from bitwright.recipes import is_quantised

ENDS = ("scores", "argmax")


@overload
def lower(
    model: nn.Module,
    example: torch.Tensor,
    meta: Mapping[str, Any] | None = None,
    *,
    output: str = "scores",
    float_islands: None = None,
) -> Network: ...


@overload
def lower(
    model: nn.Module,
    example: torch.Tensor,
    meta: Mapping[str, Any] | None = None,
    *,
    output: str = "scores",
    float_islands: Collection[str],
) -> Chain: ...


def lower(
    model: nn.Module,
    example: torch.Tensor,
    meta: Mapping[str, Any] | None = None,
    *,
    output: str = "scores",
    float_islands: Collection[str] | None = None,
) -> Network | Chain:
    """The integer network of a quantised model.

    Args:
        model: as `quantize_` left it, trained or not. It is read in eval mode and left as it was.
        example: one batch of inputs; only its shape counts (and the type of tokens).
        meta: JSON values to travel with the network (preprocessing, class names...).
        output: "scores", what the model returns; or "argmax", the channel of the largest score.
        float_islands: names of modules that stay in float, each between integer parts: the result is a chain
            of networks and islands. Everything in front of an island goes through it.

    Raises:
        InvalidValueError: the model is not quantised.
        NotLowerableError: a layer's operands have no format of integers, or an operation is not supported;
            the message names it.
    """
    if output not in ENDS:
        raise unknown_name("output", output, ENDS)
    made = lowered(model, example, meta, output=output, islands=float_islands or ()).network
    return Chain([made], meta) if float_islands is not None and isinstance(made, Network) else made


def lowered(
    model: nn.Module,
    example: torch.Tensor,
    meta: Mapping[str, Any] | None = None,
    *,
    output: str = "scores",
    islands: Collection[str] = (),
) -> Lowered:
    """The same, and which of its tensors each slot of the model sees."""
    if not is_quantised(model):
        raise InvalidValueError(
            "lower takes a quantised model",
            got=f"a plain {type(model).__name__}",
            fix="call bitwright.quantize_(model, recipe) first",
        )
    if not isinstance(example, torch.Tensor) or example.dim() < 2:
        raise InvalidValueError("example is a batch of inputs: a tensor with a batch axis", got=example)
    _check_islands(model, islands)
    with evaluating(model), torch.no_grad():
        graph = link_folds(model, islands)
        check(graph)
        return emit(graph, example, meta or {}, output == "argmax")


def _check_islands(model: nn.Module, islands: Collection[str]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in islands:
        if name not in modules or not name:
            raise unknown_name("module", name, [known for known in modules if known])
        if any(quantizers(modules[name])):
            raise InvalidValueError(
                "a float island has no quantisers",
                got=f"{name} ({type(modules[name]).__name__}), in which some are",
                fix="name the module within it that lower does not know, "
                f'or let the recipe leave it in float: [layers."{name}.*"] activation = "float"',
            )
