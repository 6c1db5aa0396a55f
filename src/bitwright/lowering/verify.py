"""verify: the emulated model and the integer network compute the same codes, or here is where not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.integer import Argmax, Clip, Codes, Network, Operation, Reshape
from bitwright.lowering.emit import Lowered
from bitwright.lowering.islands import Chain
from bitwright.lowering.lower import lowered
from bitwright.nn import Accumulator, Slots
from bitwright.quantize import Quantized, evaluating


@dataclass(frozen=True)
class Difference:
    """One element that differs: tensor, index, what the network holds, what the model says."""

    tensor: str
    index: tuple[int, ...]
    code: float
    expected: float

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        return f"{self.tensor}[{place}] is {self.code:g}, expected {self.expected:g}"


@dataclass
class Verification:
    """What was compared, and how much of it differs."""

    backend: str
    examples: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    """Tensor -> elements compared."""
    differing: int = 0
    first: Difference | None = None

    @property
    def tensors(self) -> int:
        """How many tensors were compared."""
        return len(self.elements)

    @property
    def compared(self) -> int:
        """How many elements were compared."""
        return sum(self.elements.values())

    def __str__(self) -> str:
        text = (
            f"{self.examples} examples x {self.tensors} tensors ({self.compared:,} elements): "
            f"{self.differing} differing codes ({self.backend})"
        )
        return text if self.first is None else f"{text}; first: {self.first}"


def verify(
    model: nn.Module,
    network: Network | Chain,
    batches: Iterable[torch.Tensor],
    *,
    backend: str | None = None,
    isa: str | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Compare the model's eval forward with the network, on the CPU, element by element.

    Compared are the stored weights, multipliers, offsets, shifts and thresholds; the input codes; every
    slot as its consumer sees it (of layers, adds, concats and pools); the last accumulators; and the output,
    bit for bit.

    Args:
        model: the quantised model that the network came from.
        network: the integer network, or its chain. Where it ends in an argmax that the model does not have,
            the argmax of the model's scores is compared.
        batches: inputs, float32 [N, ...], or int64 tokens where the model begins with an embedding.
        backend: "engine" or "interpreter"; None takes what the network would take.
        isa, threads: of the engine.
        progress: called after each batch with its number of examples.

    Raises:
        InvalidValueError: nothing was compared, or the model is not on the CPU.
    """
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise InvalidValueError("verify compares on the CPU", fix="call model.cpu() first")
    batches = iter(batches)
    head = next(batches, None)
    if head is None:
        raise InvalidValueError("verify compares at least one example", got="none")
    networks = network.networks if isinstance(network, Chain) else (network,)
    chosen = network.backend(backend)
    result = Verification(networks[0].engine(isa).isa if chosen == "engine" else chosen)
    tokens = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    expected = _expected(model, network, head)
    _compare_stored(result, network, expected.network)
    with evaluating(model), torch.no_grad(), _captured(model) as seen:
        for batch in itertools.chain([head], batches):
            seen.clear()
            output = model(batch if tokens else batch.to(torch.float32)).numpy()
            tensors = network.trace(batch.numpy(), backend=chosen, isa=isa, threads=threads)
            start = result.examples
            for (layer, operand), name in expected.slots.items():
                made = _made(network, tensors, name)
                if layer in expected.pads:
                    left, right, top, bottom = expected.pads[layer]
                    made = np.pad(made, ((0, 0), (0, 0), (top, bottom), (left, right)))
                if (layer, operand) in expected.turned:
                    made = np.moveaxis(made, 1, -1)
                _compare(result, _shown(layer, operand), made, seen[layer, operand], start)
            for layer, name in expected.accumulators.items():
                made = _made(network, tensors, name)
                if layer in expected.turned:
                    made = np.moveaxis(made, 1, -1)
                _compare(result, f"{layer} accumulator", made, seen[layer, "accumulator"], start)
            made = tensors[network.last]
            if made.dtype == np.int64 and output.dtype != np.int64:
                output = output.argmax(1)
            _compare(result, "output", _bits(made), _bits(output), start, shown=(made, output))
            result.examples += len(batch)
            if progress is not None:
                progress(len(batch))
    if not result.examples:
        raise InvalidValueError("verify compares at least one example", got="none")
    return result


def _expected(model: nn.Module, network: Network | Chain, batch: torch.Tensor) -> Lowered:
    """What lowering the model now gives, in the form that the network has."""
    ends = "argmax" if isinstance(network.operations[-1], Argmax) else "scores"
    if isinstance(network, Chain):
        return lowered(model, batch[:1], output=ends, islands=[island.name for island in network.islands])
    return lowered(model, torch.zeros((1, *network.input.shape)), output=ends)


@contextmanager
def _captured(model: nn.Module) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """(layer, operand) -> what passes each slot during a forward pass; "accumulator" is its raw numbers."""
    seen: dict[tuple[str, str], np.ndarray] = {}

    def keep_levels(slots: nn.Module, args: Any, result: Quantized) -> None:
        assert isinstance(slots, Slots)
        seen[slots.layer, args[0]] = result.levels.numpy()

    def keep_raw(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: torch.Tensor) -> None:
            seen[layer, "accumulator"] = result.numpy()

        return hook

    handles = []
    for module in model.modules():
        slots, accumulator = (module._modules.get(name) for name in ("slots", "accumulator"))
        if isinstance(slots, Slots):
            handles.append(slots.register_forward_hook(keep_levels))
            if isinstance(accumulator, Accumulator):
                handles.append(accumulator.register_forward_hook(keep_raw(slots.layer)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _shown(layer: str, operand: str) -> str:
    """A slot in words: "conv1 input", "add input 1"."""
    place = operand.removesuffix(".activation")
    return f"{layer} input" if place == "forward" else f"{layer} input {place}"


def _bits(array: np.ndarray) -> np.ndarray:
    """Floats as their bits; integers as they are."""
    array = np.ascontiguousarray(array)
    return array.view(np.int32) if array.dtype == np.float32 else array


def _made(network: Network | Chain, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A tensor by name, or the one that it renames, where a backend fused the renaming away."""
    while name not in tensors:
        operation = network.operation(name)
        if not isinstance(operation, Reshape | Clip):
            raise InvalidValueError("the backend shows every slot's tensor", got=f"none for {name}")
        name = operation.input
    return tensors[name]


def _compare_stored(result: Verification, network: Network | Chain, expected: Network | Chain) -> None:
    """Weights, multipliers, offsets, shifts, thresholds, and the operations themselves."""
    ours = [(o.kind, o.name, o.inputs) for o in network.operations]
    theirs = [(o.kind, o.name, o.inputs) for o in expected.operations]
    if ours != theirs:
        raise InvalidValueError(
            "model and network have the same operations",
            got=f"network {ours}, model {theirs}",
            fix="was the network lowered from this model?",
        )
    for operation, wanted in zip(network.operations, expected.operations, strict=True):
        _compare_fields(result, operation, wanted)


def _compare_fields(result: Verification, operation: Operation, wanted: Operation) -> None:
    for item in fields(operation):
        value, expected = getattr(operation, item.name), getattr(wanted, item.name)
        tensor = f"{operation.name}.{item.name}"
        if isinstance(value, Codes):
            value, expected = value.array, expected.array
        if isinstance(value, np.ndarray):
            _compare(result, tensor, value, expected, 0)
        elif item.name == "shift":
            _compare(result, tensor, np.array([value]), np.array([expected]), 0)
        elif value != expected:
            raise InvalidValueError(
                "model and network agree in every setting",
                got=f"network {value}, model {expected}",
                where=tensor,
            )


def _compare(
    result: Verification,
    tensor: str,
    codes: np.ndarray,
    expected: np.ndarray,
    start: int,
    shown: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    if codes.size != expected.size:
        raise InvalidValueError(
            "model and network make tensors of one size",
            got=f"network {codes.shape}, model {expected.shape}",
            where=tensor,
        )
    codes = codes.reshape(expected.shape)
    different = codes != expected
    result.elements[tensor] = result.elements.get(tensor, 0) + codes.size
    count = int(np.count_nonzero(different))
    result.differing += count
    if count and result.first is None:
        index = tuple(int(i) for i in np.argwhere(different)[0])
        got, want = (a.reshape(expected.shape) for a in shown) if shown else (codes, expected)
        place = (index[0] + start, *index[1:])
        result.first = Difference(tensor, place, float(got[index]), float(want[index]))
