"""All quantisers of a model: to find them, and to begin a step for all of them at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import torch
from torch import nn

from bitwright.quantize import ranks
from bitwright.quantize.controllers import LearntClip
from bitwright.quantize.quantizer import Quantizer
from bitwright.quantize.statistics import Statistic


def quantizers(model: nn.Module) -> Iterator[Quantizer]:
    """Every quantiser of the model, each once."""
    return (module for module in model.modules() if isinstance(module, Quantizer))


def tick(found: Iterable[Quantizer], step: int | torch.Tensor, *, replicated: bool = False) -> None:
    """Begin training step `step`: exchange what the ranks measured, then let every scale move.

    Args:
        found: the quantisers.
        step: counts training steps; keys random bits.
        replicated: every rank measures the same, and nothing is exchanged.
    """
    found = list(found)
    if not replicated:
        exchange(found)
    groups: dict[Hashable, list[Quantizer]] = {}
    for quantizer in found:
        common = quantizer.joins()
        if common is None:
            quantizer.tick(step)
        else:
            groups.setdefault(common, []).append(quantizer)
    for group in groups.values():
        _tick_together(group, step)


@torch.no_grad()
def _tick_together(group: list[Quantizer], step: int | torch.Tensor) -> None:
    """The same for quantisers of one rule whose state is single numbers: as one vector."""
    spec = group[0].spec
    states = [quantizer.state() for quantizer in group]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    for name, moved in spec.controller.move(stacked, group[0].format).items():
        held = [state[name] for state in states]
        torch._foreach_copy_(held, list(moved.to(held[0].dtype).unbind()))
    wants = [statistic.value for statistic in Statistic if statistic in spec.controller.wants]
    torch._foreach_zero_([state[name] for state in states for name in wants])
    for quantizer in group:
        quantizer.after_tick(step)


def exchange(found: Iterable[Quantizer]) -> None:
    """Replace the statistics of every quantiser by those of all ranks, in one collective."""
    if ranks.count() == 1:
        return
    held = [(quantizer, quantizer.statistics()) for quantizer in found]
    merged = iter(ranks.merge([pair for _, statistics in held for pair in statistics]))
    for quantizer, statistics in held:
        quantizer.replace_statistics([next(merged) for _ in statistics])


def state_names(model: nn.Module) -> list[str]:
    """Qualified names of all quantiser buffers: what must not be broadcast between ranks."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, Quantizer)
        for name in module._buffers
    ]


def clip_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every learnt clip (PACT's alpha) of the model: for a parameter group with weight decay."""
    return [q.get_parameter("alpha") for q in quantizers(model) if isinstance(q.spec.controller, LearntClip)]
