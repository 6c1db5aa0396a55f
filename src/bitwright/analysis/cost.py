"""What a network costs: multiply-accumulates by kind, bits per weight, bytes."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import nn

from bitwright.formats import Binary
from bitwright.integer import Network
from bitwright.integer.operations import Product
from bitwright.nn import FloatLayer

FLOAT_MAC = "float MAC"
BINARY_MAC = "xor+popcount"


def integer_operations(network: Network) -> dict[str, int]:
    """Multiply-accumulates per example, by the kind of their operands, most frequent first."""
    counts: Counter[str] = Counter()
    for operation in network.operations:
        if isinstance(operation, Product):
            source = network.types[operation.input]
            macs = operation.macs(source)
            binary = isinstance(operation.weight.format, Binary)
            if binary and (source.low, source.high) == (-1, 1):
                counts[BINARY_MAC] += macs
            else:
                width = max(source.bound.bit_length(), operation.weight.format.bits)
                counts[f"int{8 if width <= 8 else 16 if width <= 16 else 32}"] += macs
    return dict(counts.most_common())


def weight_bits(network: Network) -> float:
    """Mean bits of a stored weight."""
    sizes = [(math.prod(w.shape), w.format.bits) for w in network.weights().values()]
    return sum(n * bits for n, bits in sizes) / sum(n for n, _ in sizes)


def float_operations(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Multiply-accumulates per example of a float model's linear and convolutional layers."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        # a transposed convolution multiplies each of its inputs by a row of the weight
        places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += math.prod(module.get_parameter("weight").shape[1:]) * places[0].numel()

    layers = [m for m in model.modules() if isinstance(m, FloatLayer)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(example[:1])
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {FLOAT_MAC: total}


def float_bytes(model: nn.Module) -> int:
    """Bytes of a float model's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def describe_operations(counts: dict[str, int]) -> str:
    """ "3.1 M xor+popcount, 0.8 M int8"."""
    return ", ".join(f"{count / 1e6:.2g} M {kind}" for kind, count in counts.items())
