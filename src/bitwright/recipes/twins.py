"""Which module of ours takes a torch module's place, and back: classes change, Parameters stay."""

from __future__ import annotations

from torch import nn

from bitwright.nn import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    Add,
    AvgPool1d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Embedding,
    FloatLayer,
    GlobalAvgPool,
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    IntegerNorm,
    Linear,
    ShiftBatchNorm1d,
    ShiftBatchNorm2d,
    Slots,
    embedding_problem,
    pool_problem,
)

TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Embedding: Embedding,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.AvgPool1d: AvgPool1d,
    nn.AvgPool2d: AvgPool2d,
    nn.AdaptiveAvgPool1d: AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    Add: Add,
    Concat: Concat,
    GlobalAvgPool: GlobalAvgPool,
}
NORM_TWINS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "batch": {},
    "shift": {nn.BatchNorm1d: ShiftBatchNorm1d, nn.BatchNorm2d: ShiftBatchNorm2d},
    "integer": {nn.BatchNorm1d: IntegerBatchNorm1d, nn.BatchNorm2d: IntegerBatchNorm2d},
}
"""A recipe's norm -> what it puts in place of the usual twins."""
PLAIN = {twin: plain for twins in (TWINS, *NORM_TWINS.values()) for plain, twin in twins.items()}
"""Our class -> the one that it is a twin of."""


def is_compute(module: nn.Module) -> bool:
    """Whether it multiplies by weights."""
    return isinstance(module, FloatLayer)


def unsupported(module: nn.Module) -> str | None:
    """Why a module has no quantised twin, though its class has one."""
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        return f"padding_mode = {mode!r}; only zeros is quantised"
    return embedding_problem(module) or pool_problem(module)


def adopt(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of another class that holds the same Parameters, buffers, hooks and settings."""
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    # containers of the module's own, so that adding a submodule to one leaves the other alone
    for name in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[name] = dict(module.__dict__[name])
    return twin


def plain_copy(module: nn.Module) -> nn.Module:
    """The float module of the same Parameters that a quantised one stands for; any other as it is."""
    if type(module) not in PLAIN:
        return module
    kind = PLAIN[type(module)]
    plain = adopt(module, kind)
    for attribute in ("fold", "integers", "normalised"):
        plain.__dict__.pop(attribute, None)
    if isinstance(module, IntegerNorm):
        plain.__dict__["_buffers"] = module.plain_buffers()
    if kind in PLAIN:  # a join that is ours in the plain model too
        plain.slots = Slots({}, "")
        return plain
    for child in ("slots", "accumulator"):
        plain.__dict__["_modules"].pop(child, None)
    return plain


def swap(model: nn.Module, swaps: dict[nn.Module, nn.Module]) -> None:
    """Put modules in others' places, under their names."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in swaps:
                parent._modules[name] = swaps[child]
