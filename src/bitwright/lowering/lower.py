"""lower: from a quantised module to an integer network that computes the same codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from bitwright import integer
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Format, Overflow, Rounding, twin
from bitwright.integer import Codes, Network, Operation, TensorType
from bitwright.nn import (
    BatchNorm1d,
    BatchNorm2d,
    ComputeLayer,
    ConvGeometry,
    Fold,
    LinearGeometry,
    Link,
    describe,
    eval_rounding,
    is_flatten,
    link_folds,
    trace,
)
from bitwright.quantize import Quantizer
from bitwright.recipes import is_quantised

THRESHOLD_BITS = 4
"""Codes of up to this many bits are made by thresholds, wider ones by an affine map and a rounding."""

SUPPORTED = (
    "Linear, Conv1d, Conv2d, ConvTranspose2d, BatchNorm1d, BatchNorm2d, ReLU, Hardtanh, MaxPool1d, "
    "MaxPool2d, Flatten, Dropout, Identity"
)


def lower(model: nn.Module, example: torch.Tensor, meta: Mapping[str, Any] | None = None) -> Network:
    """The integer network of a quantised model.

    Args:
        model: as `quantize_` left it, trained or not. It is read in eval mode and left as it was.
        example: one batch of inputs; only its shape counts.
        meta: JSON values to travel with the network (preprocessing, class names...).

    Raises:
        InvalidValueError: the model is not quantised, a layer's operands have no format, or an operation
            is not supported; the message names it.
    """
    if not is_quantised(model):
        raise InvalidValueError(
            "lower takes a quantised model",
            got=f"a plain {type(model).__name__}",
            fix="call bitwright.quantize_(model, recipe) first",
        )
    if not isinstance(example, torch.Tensor) or example.dim() < 2:
        raise InvalidValueError("example is a batch of inputs: a tensor with a batch axis", got=example)
    with evaluating(model), torch.no_grad():
        return _Lowering(model, tuple(example.shape[1:])).network(meta or {})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


class _Lowering:
    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.graph = trace(model)
        self.modules = dict(model.named_modules())
        self.links = {link.layer: link for link in link_folds(model)}
        self.input_shape = input_shape
        self.operations: list[Operation] = []
        self.type = TensorType((), 0, 0)
        self.fold: Fold | None = None

    def network(self, meta: Mapping[str, Any]) -> Network:
        self._check()
        for node in self.graph.nodes:
            self._node(node)
        return Network(self.operations, meta)

    def _check(self) -> None:
        """Every problem is found, and named, before anything is built."""
        problems = [
            f"{link.layer}: {problem}" for link in self.links.values() if (problem := self._problem(link))
        ]
        known = (
            ComputeLayer | BatchNorm1d | BatchNorm2d | nn.ReLU | nn.Hardtanh | nn.MaxPool1d | nn.MaxPool2d
            | nn.Flatten | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Identity
        )  # fmt: skip
        for node in self.graph.nodes:
            if node.op in ("placeholder", "output") or is_flatten(node):
                continue
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if not isinstance(module, known):
                problems.append(f"{describe(node, self.modules)} is not supported")
            elif isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and (
                module.dilation not in (1, (1,), (1, 1)) or module.ceil_mode
            ):
                problems.append(f"{node.target}: max-pools with dilation or ceil_mode are not supported")
            elif isinstance(module, nn.Flatten) and module.start_dim != 1:
                problems.append(f"{node.target}: flatten keeps the batch axis, and none behind it")
            elif isinstance(module, BatchNorm1d | BatchNorm2d) and module.fold is None:
                problems.append(f"{node.target} ({type(module).__name__}) is not directly behind a layer")
        if len([n for n in self.graph.nodes if n.op == "placeholder"]) != 1:
            problems.append("the model takes more than one input")
        if problems:
            raise InvalidValueError(
                "a model to be lowered is a chain of quantised layers",
                got="; ".join(dict.fromkeys(problems)),
                fix=f"supported: {SUPPORTED}",
            )

    def _problem(self, link: Link) -> str | None:
        layer = self.modules[link.layer]
        assert isinstance(layer, ComputeLayer)
        consumer = layer.fold.consumer if layer.fold is not None else None
        for quantizer in (layer.slots.of("forward.activation"), consumer):
            if quantizer is not None and quantizer.spec.overflow is not Overflow.SATURATE:
                return f"its activations overflow by {quantizer.spec.overflow.value}, not by saturation"
        return (layer.fold or Fold(layer, None, None)).problem or link.problem

    # --- one node after the other ---------------------------------------------------------------------

    def _node(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        name = str(node.target)
        if node.op == "placeholder":
            self._input(node)
        elif isinstance(module, ComputeLayer):
            self._product(name, module)
        elif isinstance(module, BatchNorm1d | BatchNorm2d):
            self._affine()
        elif isinstance(module, nn.ReLU):
            self._clip(name, 0.0, math.inf)
        elif isinstance(module, nn.Hardtanh):
            self._clip(name, module.min_val, module.max_val)
        elif isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
            rank = 1 if isinstance(module, nn.MaxPool1d) else 2
            window = [_each(value, rank) for value in (module.kernel_size, module.stride, module.padding)]
            self._append(integer.MaxPool(name, self._last, *window))
        elif (isinstance(module, nn.Flatten) or is_flatten(node)) and len(self.type.shape) > 1:
            axes = module.end_dim if isinstance(module, nn.Flatten) else -1
            axes = axes if axes > 0 else axes + 1 + len(self.type.shape)  # how many become one
            shape = (math.prod(self.type.shape[:axes]), *self.type.shape[axes:])
            self._append(integer.Reshape(name if module else node.name, self._last, shape))

    @property
    def _last(self) -> str:
        return self.operations[-1].name if self.operations else ""

    def _free(self, name: str) -> str:
        """`name`, with an underscore for each layer that is called so too."""
        while name in self.modules:
            name += "_"
        return name

    def _append(self, operation: Operation) -> None:
        if self.operations and isinstance(self.operations[-1], integer.Output):
            raise InvalidValueError(
                "nothing follows the last layer and its norm",
                got=operation.kind,
                where=operation.name,
                fix="move it behind the model, or in front of the last layer",
            )
        try:
            self.type = operation.infer(self.type)
        except InvalidValueError as error:
            raise InvalidValueError(
                str(error), where=operation.name, fix="does the example have the model's input shape?"
            ) from error
        self.operations.append(operation)

    def _input(self, node: fx.Node) -> None:
        current = node
        while True:
            users = list(current.users)
            module = self.modules.get(str(users[0].target)) if users else None
            if len(users) != 1:
                raise InvalidValueError(
                    "the input feeds one layer", got=f"{len(users)} operations", where=node.name
                )
            if isinstance(module, ComputeLayer):
                quantizer = _slot(module, "forward.activation")
                break
            if not (
                isinstance(module, nn.Flatten | nn.Dropout | nn.Dropout2d | nn.Identity)
                or is_flatten(users[0])
            ):
                raise InvalidValueError(
                    "the input goes to a quantised layer", got=describe(users[0], self.modules)
                )
            current = users[0]
        if eval_rounding(quantizer) is not Rounding.NEAREST_EVEN:
            raise InvalidValueError(
                "the input is rounded to nearest, ties to even",
                got=eval_rounding(quantizer).value,
                where=f"the activation of {users[0].target}",
            )
        name = self._free("input")
        scale, zero_point = _scale(quantizer), _zero_point(quantizer)
        self._append(
            integer.Input(name, "", self.input_shape, quantizer.format, scale, zero_point=zero_point)
        )

    def _product(self, name: str, layer: ComputeLayer) -> None:
        weight, geometry = stored_weight(layer), layer.geometry
        if isinstance(geometry, LinearGeometry):
            self._append(integer.Linear(name, self._last, weight))
        elif isinstance(geometry, ConvGeometry):
            self._append(integer.Conv(name, self._last, weight, *_window(geometry)))
        else:
            window, more = _window(geometry.conv), geometry.output_padding
            self._append(integer.ConvTranspose(name, self._last, weight, *window, more))
        self.fold = layer.fold
        if self.fold is not None and self.fold.norm is None:
            self._affine()

    def _affine(self) -> None:
        fold = self.fold
        assert fold is not None
        name = fold.layer.slots.layer
        levels = _slot(fold.layer, "forward.weight")(fold.layer.weight).levels
        affine = fold.affine(levels)
        multiplier, offset = affine.multiplier.numpy(), affine.offset.numpy()
        if fold.consumer is None:
            name = self._free("output")
            self._append(integer.Output(name, self._last, multiplier, offset, affine.shift))
            return
        form, rounding = fold.consumer.format, eval_rounding(fold.consumer)
        zero_point = _zero_point(fold.consumer)
        if form.bits <= THRESHOLD_BITS:
            thresholds, direction = find_thresholds(
                multiplier, offset, affine.shift, form, rounding, self.type.bound, zero_point
            )
            self._append(
                integer.Threshold(f"{name}.threshold", self._last, thresholds, direction, form, zero_point)
            )
        else:
            self._append(
                integer.Affine(
                    f"{name}.affine",
                    self._last,
                    multiplier,
                    offset,
                    affine.shift,
                    form,
                    rounding,
                    zero_point,
                )
            )

    def _clip(self, name: str, low: float, high: float) -> None:
        """Bounds of values -> bounds of codes: rounding is monotone, so clipping commutes with it."""
        assert self.fold is not None
        consumer = self.fold.consumer
        if consumer is None:
            raise InvalidValueError("nothing follows the last layer and its norm", got="a clip", where=name)
        scale = consumer.current_scale()
        # in the type of the values that `Fold.apply` hands on
        real = torch.float32 if scale is None and not consumer.format.wide else torch.float64
        limits = torch.tensor([low, high], dtype=real)
        zero_point = consumer.current_zero_point()
        bounds = twin.numbers(consumer.format, limits, scale, eval_rounding(consumer), zero_point=zero_point)
        first, last = (int(b) for b in bounds)
        if first > self.type.low or last < self.type.high:
            self._append(integer.Clip(name, self._last, first, last))


def stored_weight(layer: ComputeLayer) -> Codes:
    """The codes of a layer's weight, as its quantiser makes them in eval, with the output channel first."""
    quantizer = _slot(layer, "forward.weight")
    form, numbers = quantizer.format, quantizer(layer.weight.detach().cpu()).levels
    codes = numbers if form.integral else form.encode(numbers)
    return Codes.pack(form, layer.geometry.by_output(codes).numpy().astype(np.int64))


def find_thresholds(
    multiplier: np.ndarray,
    offset: np.ndarray,
    shift: int,
    form: Format,
    rounding: Rounding,
    bound: int,
    zero_point: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The accumulators at which y = (acc M + B) 2^-s rounds to the next code, by bisection on integers.

    Returns:
        thresholds: int64 [C, codes - 1], ascending: the smallest d = direction * acc, within the bound,
            that gives at least each code; bound + 1 where none does.
        direction: int8 [C], the sign of M (+1 where M = 0).
    """
    codes = np.array(form.codes(), dtype=np.int64)
    direction = np.where(multiplier < 0, -1, 1).astype(np.int8)
    slope = np.abs(multiplier)[:, None]

    def index(directed: np.ndarray) -> np.ndarray:
        """How many codes lie at or below that of the accumulator direction * directed."""
        y = directed * slope + offset[:, None]
        if isinstance(form, Binary):
            above: np.ndarray = (y >= 0).astype(np.int64)
            return above
        low, high = form.code_min - zero_point, form.code_max - zero_point
        level: np.ndarray = np.clip(integer.round_shift(y, shift, rounding), low, high)
        return level - low

    wanted = np.arange(1, len(codes))[None, :]
    low = np.full((len(multiplier), len(codes) - 1), -bound, dtype=np.int64)
    high = np.full_like(low, bound + 1)
    while (low < high).any():
        middle = (low + high) >> 1
        reached = index(middle) >= wanted
        # middle = bound + 1 only where low = high already
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return low, direction


def _slot(layer: ComputeLayer, operand: str) -> Quantizer:
    quantizer = layer.slots.of(operand)
    assert quantizer is not None
    return quantizer


def _scale(quantizer: Quantizer) -> float:
    scale = quantizer.current_scale()
    return 1.0 if scale is None else float(scale)


def _zero_point(quantizer: Quantizer) -> int:
    zero_point = quantizer.current_zero_point()
    return 0 if zero_point is None else int(zero_point)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """One number for each of `rank` axes."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _window(conv: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups of an integer convolution."""
    return conv.stride, conv.padding, conv.steps, conv.groups
