"""Timing: an integer network beside float runtimes of one architecture, interleaved."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bitwright.analysis.float_layers import FloatTwin, float_twin
from bitwright.integer import Network

Run = Callable[[], object]
WARM_SECONDS = 0.005


@dataclass(frozen=True)
class Timing:
    """The median time of one call.

    Args:
        runtime: what ran.
        batch: examples per call.
        seconds: median over the rounds.
    """

    runtime: str
    batch: int
    seconds: float


def time_network(
    network: Network,
    sizes: Sequence[int] = (1, 100),
    *,
    threads: int = 1,
    rounds: int = 50,
    progress: Callable[[], None] | None = None,
) -> list[Timing]:
    """Time `network` beside torch float32 and, where installed, ONNX Runtime float32.

    ONNX Runtime takes part where the network is a chain.

    Every round runs each contender in turn, so that a change of the machine's speed meets all of
    them alike. Each first runs untimed for 5 ms, since its neighbour has just filled the caches with
    its own weights, and is then timed once. The float networks have the same layers with float32
    weights.
    """
    twin = float_twin(network)
    generator = np.random.default_rng(0)
    timings = []
    with _torch_threads(threads):
        for size in sizes:
            x = generator.uniform(-1, 1, (size, *network.input.shape)).astype(np.float32)
            contenders = _contenders(network, twin, x, threads)
            samples: dict[str, list[float]] = {name: [] for name in contenders}
            for round_number in range(rounds + 3):
                for name, run in contenders.items():
                    _warm_up(run)
                    began = time.perf_counter()
                    run()
                    if round_number >= 3:  # the first ones warm thread pools up
                        samples[name].append(time.perf_counter() - began)
                if progress is not None:
                    progress()
            timings += [Timing(name, size, statistics.median(s)) for name, s in samples.items()]
    return timings


def _warm_up(run: Run) -> None:
    """Call `run` for `WARM_SECONDS`, at least once."""
    began = time.perf_counter()
    run()
    while time.perf_counter() - began < WARM_SECONDS:
        run()


def _contenders(network: Network, twin: FloatTwin, x: np.ndarray, threads: int) -> dict[str, Run]:
    tensor = torch.from_numpy(x)

    def run_torch() -> object:
        with torch.inference_mode():
            return twin(tensor)

    contenders: dict[str, Run] = {
        f"bitwright {network.engine().isa}"
        if network.engine_problem is None
        else "bitwright interpreter": lambda: network(x, threads=threads),
        "torch float32": run_torch,
    }
    chain = twin.chain
    if chain is not None and any(type(layer) not in _ONNX_KINDS for layer in chain):
        chain = None
    if chain is not None and all(importlib.util.find_spec(p) for p in ("onnx", "onnxruntime")):
        session = _onnx_session(chain, x.shape[1:], threads)
        contenders["ONNX Runtime float32"] = lambda: session.run(None, {"x": x})
    return contenders


def _onnx_session(twin: nn.Module, shape: tuple[int, ...], threads: int) -> Any:
    """An ONNX Runtime session of `twin`, written with onnx's own helpers."""
    import onnx
    import onnxruntime

    nodes, constants = [], []
    current = "x"
    for index, layer in enumerate(twin.children()):
        inputs = [current]
        attributes: dict[str, Any] = {}
        for name, tensor in layer.state_dict().items():
            if name != "num_batches_tracked":
                value = tensor.numpy()
                value = np.ascontiguousarray(value.T) if isinstance(layer, nn.Linear) else value
                inputs.append(f"{name}{index}")
                constants.append(onnx.numpy_helper.from_array(value, inputs[-1]))
        if isinstance(layer, nn.Conv2d):
            attributes = {
                "strides": layer.stride,
                "pads": [*_pair(layer.padding)] * 2,
                "dilations": layer.dilation,
                "group": layer.groups,
            }
        elif isinstance(layer, nn.MaxPool2d):
            attributes = {
                "kernel_shape": _pair(layer.kernel_size),
                "strides": _pair(layer.stride),
                "pads": [*_pair(layer.padding)] * 2,
            }
        kind = _ONNX_KINDS[type(layer)]
        nodes.append(onnx.helper.make_node(kind, inputs, [f"y{index}"], **attributes))
        current = f"y{index}"
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "float_twin",
        [onnx.helper.make_tensor_value_info("x", real, ["n", *shape])],
        [onnx.helper.make_tensor_value_info(current, real, None)],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


_ONNX_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "MatMul",
    nn.Conv2d: "Conv",
    nn.MaxPool2d: "MaxPool",
    nn.Flatten: "Flatten",
    nn.BatchNorm1d: "BatchNormalization",
    nn.BatchNorm2d: "BatchNormalization",
    nn.ReLU: "Relu",
}


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
