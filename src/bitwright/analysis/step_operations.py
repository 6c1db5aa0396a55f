"""What a training step computes in float and what in integers: FxpNet's claim, counted on a model.

Counted are the operations that the algorithms name, for one step on one batch; how an emulator carries them
out is another matter. A multiplication by a power of two is a shift. Quantisers, activations and the loss,
a few operations for each activation, are left out.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from bitwright.errors import unknown_name
from bitwright.nn import IntegerNorm, ShiftBatchNorm1d, ShiftBatchNorm2d, Slots
from bitwright.recipes import Recipe, layer_specs


@dataclass(frozen=True)
class Operations:
    """How many of each kind; a multiply-accumulate is two."""

    float: int = 0
    shift: int = 0
    integer: int = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.float + other.float, self.shift + other.shift, self.integer + other.integer)

    def times(self, count: int) -> Operations:
        """The same, so many times."""
        return Operations(self.float * count, self.shift * count, self.integer * count)


# Of each element. Forward: two sums, centring, square, scale, gain, beta; backward: two sums, a product
# in one of them, three operations on the gradient and its scale.
BATCH_NORM = Operations(float=14)
# products with C r, P and gains are shifts
SHIFT_NORM = Operations(float=8, shift=5)
INTEGER_NORM = Operations(integer=14)
# Of each channel: 1 / sigma by a root and a division, gamma / sigma.
INTEGER_NORM_CHANNEL = Operations(float=3)

OPTIMIZERS = {
    # m: 3, v: 4, root, eps, division, learning rate, subtraction
    "Adam": Operations(float=12),
    "AdamW": Operations(float=14),
    "Adamax": Operations(float=9),
    "SGD": Operations(float=2),
    "RMSprop": Operations(float=9),
    # m: 2 and a shift; v: 3 and a shift; AP2(1 / v), m and the step shift; subtraction
    "ShiftAdaMax": Operations(float=6, shift=5),
    # m: 2 and a shift; r: two squares, 2 and a shift, root; division, learning rate, subtraction
    "FxpAdam": Operations(float=10, shift=2),
}
"""Of each parameter."""


def step_operations(model: nn.Module, recipe: Recipe, batch: torch.Tensor) -> dict[str, Operations]:
    """Operations of one training step by its parts: three products, norms, optimiser.

    A product is of integers where both of its operands have a format; an optimiser is where gradient, stored
    weight and state have one.

    Args:
        model: as the recipe's `quantize_` left it, or a plain one with the `float` recipe. Left unchanged.
        recipe: of its optimiser.
        batch: inputs of one step.
    """
    parts = {name: Operations() for name in ("forward products", "dgrad products", "wgrad products", "norms")}
    shapes = _output_shapes(model, batch)
    first = True
    for name, module in model.named_modules():
        if name not in shapes:
            continue
        elements = math.prod(shapes[name])
        if isinstance(module, nn.Linear | nn.Conv2d):
            operations = 2 * elements * math.prod(module.weight.shape[1:])
            for kind, left, right in (
                ("forward", "activation", "weight"),
                ("dgrad", "error", "weight"),
                ("wgrad", "error", "activation"),
            ):
                if kind == "dgrad" and first:
                    continue  # nobody wants the input's gradient
                integer = _formatted(module, f"{kind}.{left}") and _formatted(module, f"{kind}.{right}")
                counted = Operations(integer=operations) if integer else Operations(float=operations)
                parts[f"{kind} products"] += counted
            first = False
        else:
            parts["norms"] += _norm(module).times(elements)
            if isinstance(module, IntegerNorm):
                parts["norms"] += INTEGER_NORM_CHANNEL.times(shapes[name][1])
    return parts | {"optimiser": _optimizer(model, recipe)}


def _output_shapes(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Size]:
    """The output of each layer and norm, from a training pass of a copy."""
    twin = copy.deepcopy(model).train()
    shapes: dict[str, torch.Size] = {}
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, y, name=name: shapes.update({name: y.shape}))
    with torch.no_grad():
        twin(batch)
    return shapes


def _formatted(module: nn.Module, operand: str) -> bool:
    slots = getattr(module, "slots", None)
    return isinstance(slots, Slots) and slots.of(operand) is not None


def _norm(module: nn.Module) -> Operations:
    if isinstance(module, IntegerNorm):
        return INTEGER_NORM
    return SHIFT_NORM if isinstance(module, ShiftBatchNorm1d | ShiftBatchNorm2d) else BATCH_NORM


def _optimizer(model: nn.Module, recipe: Recipe) -> Operations:
    name = recipe.optimizer_rule.name
    if name not in OPTIMIZERS:
        raise unknown_name("optimiser", name, OPTIMIZERS)
    each, total = OPTIMIZERS[name], Operations()
    specs = layer_specs(model, recipe)
    for owner, module in model.named_modules():
        formats = {"weight_grad", "primal", "state"} <= specs.get(owner, {}).keys()
        in_integers = Operations(shift=each.shift, integer=each.float) if formats else each
        total += in_integers.times(sum(p.numel() for p in module.parameters(recurse=False)))
    return total
