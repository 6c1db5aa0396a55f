"""Products of the integer engine against the best int8 runtimes: one thread, in turn, medians.

    python benchmarks/integer_products.py --json experiments/results/integer-products.json

Matrix products and chains of eight 3x3 convolutions of ResNet's shapes, int8 x int8 and 2 x 2 bits by planes.
The yardsticks, where they are installed: `torch._int_mm`, ONNX Runtime's MatMulInteger and QLinearConv. Times
are CPU time of the one thread. Our times hold the conversion of the input's codes and of the output.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from interleaved import show, time_pairs, write

from bitwright.kernels.graph import Graph
from bitwright.kernels.tensors import Codes, Sums, Tensor, Window

Run = Callable[[], Any]
LAYERS = 8
MATRICES = ((256, 4096, 4096), (16, 4096, 4096), (1, 4096, 4096), (512, 1152, 128))
CHAINS = (  # images, channels, size, groups
    (1, 64, 56, 1), (1, 128, 28, 1), (1, 256, 14, 1), (1, 512, 7, 1), (16, 16, 32, 1), (16, 32, 16, 1),
    (16, 64, 8, 1), (1, 256, 28, 256),
)  # fmt: skip
RNG = np.random.default_rng(0)
EIGHT, TWO = ((-128, 127), (-128, 127)), ((0, 3), (-2, 1))  # levels of activations and of weights


def draw(bounds: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Random levels in the smallest type of codes."""
    kind = np.int8 if bounds[0] < 0 else np.uint8
    return RNG.integers(bounds[0], bounds[1] + 1, shape).astype(kind)


def start(shape: tuple[int, int, int], levels: Any) -> tuple[Graph, Tensor]:
    """A graph with an input of levels."""
    graph = Graph()
    low, high = levels[0]
    return graph, graph.input(shape, scale=1.0, low=low, high=high)


def operand(graph: Graph, x: Tensor, levels: Any) -> Tensor:
    """As the kernel wants it: two bits as planes."""
    return graph.split(x, levels[0][1]) if levels is TWO else x


def our_matrix(m: int, k: int, n: int, levels: Any) -> tuple[Run, np.ndarray, np.ndarray]:
    """A matrix product of codes, and its operands."""
    graph, x = start((k, 1, 1), levels)
    weight, codes = draw(levels[1], (n, k, 1, 1)), draw(levels[0], (m, k, 1, 1))
    graph.output_levels(graph.product(operand(graph, x, levels), weight, Sums()))
    expected = codes[:2, :, 0, 0].astype(np.int64) @ weight[:, :, 0, 0].astype(np.int64).T
    np.testing.assert_array_equal(graph.run(codes)[0][:2, :, 0, 0], expected)
    return lambda: graph.run(codes), codes[:, :, 0, 0], weight[:, :, 0, 0]


def our_chain(images: int, channels: int, size: int, groups: int, levels: Any) -> Run:
    """Eight 3x3 convolutions with a requantisation each, then a sum over the image."""
    graph, x = start((channels, size, size), levels)
    low, high = levels[0]
    for _ in range(LAYERS):
        weight = draw(levels[1], (channels, channels // groups, 3, 3))
        factor, offset = np.full(channels, 1000, np.int64), np.zeros(channels, np.int64)
        codes = Codes(factor, offset, 24, "nearest-even", low, high)
        x = graph.product(operand(graph, x, levels), weight, codes, Window(pads=((1, 1), (1, 1))), groups)
    graph.output_levels(graph.sum_pool(x, Window((size, size))))
    batch = draw(levels[0], (images, channels, size, size))
    return lambda: graph.run(batch)


def _session(nodes: list[Any], x: list[int], y: list[Any], kind: int, constants: dict[str, Any]) -> Any:
    import onnx
    import onnxruntime

    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info("x0", onnx.TensorProto.UINT8, x)],
        [helper.make_tensor_value_info("y", kind, y)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def ort_matrix(codes: np.ndarray, weight: np.ndarray) -> Run:
    """ONNX Runtime's MatMulInteger."""
    import onnx

    shape = [len(codes), len(weight)]
    node = onnx.helper.make_node("MatMulInteger", ["x0", "w"], ["y"])
    constants = {"w": np.ascontiguousarray(weight.T)}
    session = _session([node], list(codes.shape), shape, onnx.TensorProto.INT32, constants)
    shifted = (codes.astype(np.int16) + 128).astype(np.uint8)
    return lambda: session.run(None, {"x0": shifted})


def ort_chain(images: int, channels: int, size: int, groups: int) -> Run:
    """ONNX Runtime's QLinearConv eight times, then the mean."""
    import onnx

    helper = onnx.helper
    scale, zero = np.float32(1), np.uint8(0)
    constants = {"s": scale, "z": zero, "ws": scale, "wz": np.int8(0), "ys": np.float32(2**24 / 1000)}
    nodes = []
    for i in range(LAYERS):
        constants[f"w{i}"] = draw((-128, 127), (channels, channels // groups, 3, 3))
        taken = [f"x{i}", "s", "z", f"w{i}", "ws", "wz", "ys", "z"]
        attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "group": groups}
        nodes.append(helper.make_node("QLinearConv", taken, [f"x{i + 1}"], **attributes))
    nodes.append(helper.make_node("DequantizeLinear", [f"x{LAYERS}", "ys", "z"], ["d"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["d"], ["y"]))
    shape = [images, channels, size, size]
    session = _session(nodes, shape, [images, channels, 1, 1], onnx.TensorProto.FLOAT, constants)
    batch = draw((0, 255), tuple(shape))
    return lambda: session.run(None, {"x0": batch})


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the record here.")
@click.option("--pairs", default=21, show_default=True, help="Alternating calls of each pair.")
def main(path: Path | None, pairs: int) -> None:
    """Time every product against its yardsticks."""
    torch.set_num_threads(1)
    has_ort = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    record: list[dict[str, Any]] = []

    def compare(what: str, ours: str, run: Run, peers: dict[str, Run], operations: float) -> None:
        for name, peer in peers.items():
            measured = time_pairs(peer, run, pairs, clock=time.thread_time)
            speed = operations / measured["seconds"] / 1e9
            record.append({"product": what, "ours": ours, "peer": name, "gops": speed, **measured})

    for m, k, n in MATRICES:
        ours, codes, weight = our_matrix(m, k, n, EIGHT)
        left, right = torch.from_numpy(codes.copy()), torch.from_numpy(weight.copy()).t()
        peers: dict[str, Run] = {"ONNX Runtime": ort_matrix(codes, weight)} if has_ort else {}
        if m > 16:  # torch's limit
            peers["torch._int_mm"] = lambda a=left, b=right: torch._int_mm(a, b)
        for name, run in (("int8", ours), ("2 x 2 planes", our_matrix(m, k, n, TWO)[0])):
            compare(f"{m} x {k} x {n}", name, run, peers, 2.0 * m * k * n)
    for images, channels, size, groups in CHAINS:
        if not has_ort:
            break
        peers = {"ONNX Runtime": ort_chain(images, channels, size, groups)}
        operations = 2.0 * LAYERS * images * size**2 * channels**2 // groups * 9
        what = f"8 x conv {images} x {channels} x {size} x {size}" + (", depthwise" if groups > 1 else "")
        kinds = (("int8", EIGHT), ("2 x 2 planes", TWO)) if groups == 1 else (("int8", EIGHT),)
        for name, levels in kinds:
            compare(what, name, our_chain(images, channels, size, groups, levels), peers, operations)
    rows = [(r["product"], r["ours"], f"{r['gops']:.0f}", r["peer"], f"{r['ratio']:.2f}") for r in record]
    show("One thread", ("product", "ours", "Gop/s", "against", "our time / theirs"), rows)
    write(path, {"products": record})


if __name__ == "__main__":
    main()
