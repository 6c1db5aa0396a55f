"""refine: better stored weights and biases for a calibrated network, from examples without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Block
from bitwright.nn import Conv2d, Linear, trace
from bitwright.quantize import SWEEPS, Moments, Quantizer, evaluating, round_together
from bitwright.recipes.convert import is_quantised
from bitwright.recipes.twins import plain_copy

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Refined:
    """One layer: the squared error of its outputs over their variance.

    Args:
        layer: its name.
        nearest: the error with each weight rounded to nearest (its bias corrected all the same).
        refined: the error now.
    """

    layer: str
    nearest: float
    refined: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.nearest:.2e} -> {self.refined:.2e}"


@torch.no_grad()
def refine(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    *,
    sweeps: int = SWEEPS,
    progress: Progress | None = None,
) -> list[Refined]:
    """Round the weights of each layer together, and correct its bias, so that outputs come closest to float.

    Call it after `quantize_` and `calibrate`, and before any training. Layers are taken in execution order;
    each sees the inputs that the quantised network, refined so far, gives it, and aims at the outputs of the
    float network (`quantize.least_squares` says how). Only stored weights change, which now lie on their
    grid, and biases (a norm's running mean where the layer has none): scales stay, and lowering sees nothing
    new.

    Args:
        model: calibrated; its stored weights are those of the float network.
        batches: inputs; all of them are kept at once, with what the network makes of them.
        sweeps: rounds over a layer's weights.
        progress: is told (layers done, layers).

    Returns:
        The layers that were refined: Linear, and Conv2d without groups, whose weight has a format without
        blocks.

    Raises:
        InvalidValueError: the model is not quantised, or not calibrated; no batch came.
    """
    if not is_quantised(model):
        raise InvalidValueError(
            "refine takes a quantised model",
            got=f"a plain {type(model).__name__}",
            fix="call bitwright.quantize_(model, recipe) and bitwright.calibrate(model, batches) first",
        )
    with evaluating(model):
        graph = trace(model)
        modules = dict(model.named_modules())
        called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        # the float network: the same graph over copies without quantisers
        plain = {name: copy.deepcopy(plain_copy(modules[name])).eval() for name in called}
        runs = [
            (_Run(fx.GraphModule(model, graph), batch), _Run(fx.GraphModule(plain, graph), batch))
            for batch in batches
        ]
        if not runs:
            raise InvalidValueError("refinement needs at least one batch", got="none")
        layers = [name for name in dict.fromkeys(called) if _quantizer(modules[name]) is not None]
        done: list[Refined] = []
        for node in graph.nodes:
            name = str(node.target) if node.op == "call_module" else ""
            if name in layers[len(done) :]:
                inputs = [(real.env[node.args[0]], ours.env[node.args[0]]) for ours, real in runs]
                done.append(_refine_layer(name, modules[name], inputs, sweeps))
                if progress is not None:
                    progress(len(done), len(layers))
            for ours, real in runs:
                ours.step(node)
                real.step(node)
        return done


class _Run(fx.Interpreter):
    """One batch on its way through a graph, node by node; values are dropped behind their last use."""

    def __init__(self, module: fx.GraphModule, batch: torch.Tensor) -> None:
        super().__init__(module)
        self.args_iter = iter([batch])
        self.env = {}

    def step(self, node: fx.Node) -> None:
        """Evaluate a node."""
        self.env[node] = self.run_node(node)
        for dead in self.user_to_last_uses.get(node, []):
            self.env.pop(dead, None)


def _quantizer(layer: nn.Module) -> Quantizer | None:
    """The weight's quantiser, where the layer can be refined."""
    if not isinstance(layer, Linear | Conv2d) or getattr(layer, "groups", 1) != 1:
        return None
    quantizer = layer.slots.of("forward.weight")
    return None if quantizer is None or isinstance(quantizer.format, Block) else quantizer


def _refine_layer(name: str, layer: Any, inputs: list[Any], sweeps: int) -> Refined:
    quantizer = _quantizer(layer)
    assert quantizer is not None
    norm = None if layer.fold is None else layer.fold.norm
    weight = layer.weight.flatten(1)
    moments = Moments(weight, centred=layer.bias is not None or norm is not None)
    for real, ours in inputs:
        levels = layer.slots("forward.activation", ours)
        for p, q in zip(_columns(layer, real), _columns(layer, levels.value()), strict=True):
            moments.add(p, q)
    scale = quantizer.current_scale()
    unit = torch.ones((), dtype=torch.float64) if scale is None else scale.double().flatten()

    def nearest(column: torch.Tensor) -> torch.Tensor:
        return quantizer.eval_levels(column / unit).double() * unit

    found = round_together(moments, nearest, sweeps)
    stored = quantizer.quantize(found.float().view_as(layer.weight), measured=False)
    kept = stored.flatten(1).double()
    total = moments.power.sum().clamp(min=torch.finfo(torch.float64).tiny)
    plain = torch.stack([nearest(column) for column in moments.weight.unbind(1)], 1)
    report = Refined(
        name,
        float(moments.errors(plain).sum() / total),
        float(moments.errors(kept).sum() / total),
    )
    layer.weight.copy_(stored)
    shift = moments.bias_shift(kept)
    if layer.bias is not None:
        layer.bias += shift.to(layer.bias)
    elif norm is not None:
        norm.running_mean -= shift.to(norm.running_mean)
    return report


_COLUMNS = 1 << 16
"""Columns at a time: memory for some 100 MB of patches."""


def _columns(layer: Any, x: torch.Tensor) -> Iterable[torch.Tensor]:
    """What the rows of the weight are multiplied with: [K, N] at a time."""
    if isinstance(layer, nn.Linear):
        yield from torch.split(x.reshape(-1, x.shape[-1]).T, _COLUMNS, 1)
        return
    pads, stride = layer.geometry.padding, layer.geometry.stride
    if len(pads) == 4:  # before and after, of each axis
        x, pads = F.pad(x, (pads[2], pads[3], pads[0], pads[1])), (0, 0)
    for part in torch.split(x, max(1, _COLUMNS // x[0, 0].numel())):
        patches = F.unfold(part, layer.kernel_size, layer.dilation, pads, stride)
        yield patches.transpose(0, 1).flatten(1)
