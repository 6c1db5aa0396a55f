"""Matrix products of few bits against what the processor can do, and against other libraries: one thread.

    python benchmarks/binary_gemm.py --out experiments/results/binary-gemm.json

K = N = 4096. The ceiling is a loop of xor, popcount and add on registers alone; the cache's bandwidth is a
walk over as many bytes as the weights have. Every round times ceiling, ours and peers in turn; figures are
medians of the rounds, in CPU time, so that other processes count less. "Packed" is the time that the product
adds to a call, its operands being bits; "from float" is the whole call, with the packing of float32 inputs.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from integer_products import EIGHT, TWO, draw, operand, start
from interleaved import show, write
from peers import missing, onnx_session

from bitwright.kernels import _native
from bitwright.kernels.graph import Bits, Graph, Sums, Tensor

Run = Callable[[], Any]
SIZE = 4096
SIGNS = np.array([-1, 1], np.int8)
TERNARY = ((-128, 127), (-1, 1))
RNG = np.random.default_rng(0)
ROUNDS = 31


def signs(*shape: int) -> np.ndarray:
    """Random +1 and -1."""
    return RNG.choice(SIGNS, shape)


def binary_layer(graph: Graph, x: Tensor, channels: int = SIZE) -> Tensor:
    """A product of bits that ends in bits."""
    zeros = np.zeros(channels, np.int32)
    return graph.product(x, signs(channels, SIZE, 1, 1), Bits(zeros, zeros.astype(bool)))


def binary_chain(rows: int, layers: int) -> Run:
    """Products one after the other, then one of 16 channels, so that little is written out."""
    graph = Graph()
    x = graph.input_binary((SIZE, 1, 1))
    for _ in range(layers):
        x = binary_layer(graph, x)
    last = signs(16, SIZE, 1, 1)
    graph.output_levels(graph.product(x, last, Sums()))
    batch = RNG.standard_normal((rows, SIZE, 1, 1)).astype(np.float32)
    return lambda: graph.run(batch)


def level_chain(rows: int, levels: Any) -> Run:
    """One product of levels, its codes in and its sums out."""
    graph, x = start((SIZE, 1, 1), levels)
    weight, codes = draw(levels[1], (SIZE, SIZE, 1, 1)), draw(levels[0], (rows, SIZE, 1, 1))
    graph.output_levels(graph.product(operand(graph, x, levels), weight, Sums()))
    expected = codes[:2, :, 0, 0].astype(np.int64) @ weight[:, :, 0, 0].astype(np.int64).T
    np.testing.assert_array_equal(graph.run(codes)[0][:2, :, 0, 0], expected)
    return lambda: graph.run(codes)


def rounds_of(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call, in turn; each is called once untimed before."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                run()
                began = time.process_time()
                run()
                samples[name].append(time.process_time() - began)
    finally:
        gc.enable()
    return samples


def measure_binary(rows: int, rounds: int) -> list[dict[str, Any]]:
    """Ours against the register loop, and for one row against the cache."""
    counted = 100_000
    weights = np.ones(SIZE * SIZE // 8, np.uint8)  # written: fresh zeros are all the same page
    bits = _native.count_registers(1) * counted
    runs = {
        "ceiling": lambda: _native.count_registers(counted),
        "cache": lambda: _native.read_memory(weights),
        "without": binary_chain(rows, 0),
        "whole": binary_chain(rows, 1),
    }
    samples = rounds_of(runs, rounds)
    operations = 2.0 * rows * SIZE * SIZE
    ceiling = [2.0 * bits / seconds for seconds in samples["ceiling"]]
    whole = samples["whole"]
    packed = [b - a for a, b in zip(samples["without"], whole, strict=True)]
    median = statistics.median
    share = [operations / t / c for t, c in zip(packed, ceiling, strict=True)]
    from_float = [operations * (1 + 16 / SIZE) / t / c for t, c in zip(whole, ceiling, strict=True)]
    product = f"{rows} x {SIZE} x {SIZE}"
    row: dict[str, Any] = {
        "product": product,
        "ceiling_gops": median(ceiling) / 1e9,
        "packed_seconds": median(packed),
        "packed_gops": operations / median(packed) / 1e9,
        "packed_of_ceiling": median(share),
        "from_float_seconds": median(whole),
        "from_float_of_ceiling": median(from_float),
    }
    if rows == 1:
        row["cache_seconds"] = median(samples["cache"])
        row["of_cache_bandwidth"] = median([c / t for c, t in zip(samples["cache"], packed, strict=True)])
    return [row]


def peers_of(rows: int) -> tuple[dict[str, Run], dict[str, str]]:
    """Other libraries' products of that size, and those that cannot be built here."""
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    x, w = torch.randn(rows, SIZE), torch.randn(SIZE, SIZE)
    codes = torch.randint(-128, 128, (rows, SIZE), dtype=torch.int8)
    weight = torch.randint(-128, 128, (SIZE, SIZE), dtype=torch.int8)
    runs["torch float32"] = lambda: x @ w
    halves = x.bfloat16(), w.bfloat16()
    runs["torch bfloat16"] = lambda: halves[0] @ halves[1]
    if rows > 16:
        runs["oneDNN int8 (torch._int_mm)"] = lambda: torch._int_mm(codes, weight)
    builders: dict[str, tuple[tuple[str, ...], Callable[[], Run]]] = {
        "ONNX Runtime int8": (("onnx", "onnxruntime"), lambda: _onnx_int8(rows)),
        "ONNX Runtime 4-bit weights": (("onnx", "onnxruntime"), lambda: _onnx_few_bits(rows, 4)),
        "ONNX Runtime 2-bit weights": (("onnx", "onnxruntime"), lambda: _onnx_few_bits(rows, 2)),
        "OpenVINO binary": (("openvino",), lambda: _openvino_binary(rows)),
        "ggml TQ2_0": (("llama_cpp",), lambda: _ggml(rows)),
    }
    for name, (packages, build) in builders.items():
        absent = missing(packages)
        if absent:
            failed[name] = f"not installed: {', '.join(absent)}"
            continue
        try:
            runs[name] = build()
            runs[name]()
        except Exception as error:
            runs.pop(name, None)
            failed[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return runs, failed


def _onnx_int8(rows: int) -> Run:
    import onnx

    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    session = onnx_session([node], {"w": draw((-128, 127), (SIZE, SIZE))}, "int32", (rows, SIZE), "uint8")
    x = draw((0, 255), (rows, SIZE))
    return lambda: session.run(None, {"x": x})


def _onnx_few_bits(rows: int, bits: int) -> Run:
    """float32 activations, weights in blocks of 128, multiplied in int8 where the runtime can."""
    import onnx

    block, packed = 128, 128 * bits // 8
    blocks = SIZE // block
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=SIZE, N=SIZE, bits=bits, block_size=block, accuracy_level=4,
    )  # fmt: skip
    constants = {
        "w": RNG.integers(0, 256, (SIZE, blocks, packed)).astype(np.uint8),
        "s": np.ones(SIZE * blocks, np.float32),
    }
    session = onnx_session([node], constants, "float32", (rows, SIZE), "float32")
    x = RNG.standard_normal((rows, SIZE)).astype(np.float32)
    return lambda: session.run(None, {"x": x})


def _openvino_binary(rows: int) -> Run:
    from peers import binary_product

    return binary_product(signs(SIZE, SIZE), rows)


def _ggml(rows: int) -> Run:
    from ternary_ggml import product

    levels = RNG.integers(-1, 2, (SIZE, SIZE))
    return product(RNG.standard_normal((rows, SIZE)).astype(np.float32), levels, 1)


def measure_levels(rows: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """2 x 2 bits, ternary x 8 bits and int8 of ours, the binary product, and the peers."""
    ours = {
        "bitwright binary": binary_chain(rows, 1),
        "bitwright 2 x 2 bits": level_chain(rows, TWO),
        "bitwright ternary x 8 bits": level_chain(rows, TERNARY),
        "bitwright int8": level_chain(rows, EIGHT),
    }
    peers, failed = peers_of(rows)
    samples = rounds_of(ours | peers, rounds)
    int8 = [name for name in peers if "int8" in name]
    best = [min(times) for times in zip(*(samples[name] for name in int8), strict=True)] if int8 else []
    operations = 2.0 * rows * SIZE * SIZE
    table = []
    for name, times in samples.items():
        row: dict[str, Any] = {
            "product": f"{rows} x {SIZE} x {SIZE}",
            "runtime": name,
            "seconds": statistics.median(times),
            "gops": operations / statistics.median(times) / 1e9,
        }
        if best:
            row["of_best_int8"] = statistics.median([t / b for t, b in zip(times, best, strict=True)])
        if "ggml TQ2_0" in samples:
            row["of_ggml"] = statistics.median(
                [t / g for t, g in zip(times, samples["ggml TQ2_0"], strict=True)]
            )
        table.append(row)
    return table, failed


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the record here.")
@click.option("--rounds", default=ROUNDS, show_default=True)
def main(out: Path | None, rounds: int) -> None:
    """Time products of few bits."""
    torch.set_num_threads(1)
    ceilings = [row for rows in (1, 16, 256) for row in measure_binary(rows, rounds)]
    show(
        "Binary products and the ceiling",
        ("product", "packed", "Gop/s", "of the ceiling", "from float", "of the cache's bandwidth"),
        [
            (
                r["product"],
                f"{r['packed_seconds'] * 1e6:.1f} us",
                f"{r['packed_gops']:.0f} of {r['ceiling_gops']:.0f}",
                f"{r['packed_of_ceiling']:.1%}",
                f"{r['from_float_of_ceiling']:.1%}",
                f"{r['of_cache_bandwidth']:.1%}" if "of_cache_bandwidth" in r else "",
            )
            for r in ceilings
        ],
    )
    products: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for count in (1, 16, 256):
        table, problems = measure_levels(count, max(5, rounds // (1 if count < 256 else 3)))
        products += table
        failed |= problems
        show(
            f"{count} x {SIZE} x {SIZE}",
            ("runtime", "time", "Gop/s", "of best int8", "of ggml TQ2_0"),
            [
                (
                    r["runtime"],
                    f"{r['seconds'] * 1e6:.0f} us",
                    f"{r['gops']:.0f}",
                    f"{r['of_best_int8']:.2f}" if "of_best_int8" in r else "",
                    f"{r['of_ggml']:.2f}" if "of_ggml" in r else "",
                )
                for r in table
            ]
            + [(name, why, "", "", "") for name, why in problems.items()],
        )
    write(out, {"ceilings": ceilings, "products": products, "problems": failed})


if __name__ == "__main__":
    main()
