"""The runtimes that the benchmarks time beside ours; what is not installed is listed as such.

Each is given the float twin of a case, or what its own quantiser makes of it, on one batch and a number of
threads.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import Case

from bitwright.formats import Binary
from bitwright.integer import Conv, Linear, MaxPool, Network, Threshold

Run = Callable[[], Any]
Build = Callable[[Case, np.ndarray, int], Run | None]


def _torch(case: Case, x: np.ndarray, threads: int, kind: torch.dtype, compiled: bool) -> Run:
    import copy

    model = copy.deepcopy(case.twin).to(kind)
    sample = torch.from_numpy(x).to(kind)
    if case.twin[0].__class__ is torch.nn.Conv2d:
        model = model.to(memory_format=torch.channels_last)
        sample = sample.contiguous(memory_format=torch.channels_last)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True  # constant weights, packed once
        torch._dynamo.reset()
        model = torch.compile(model, dynamic=False)

    def run() -> Any:
        with torch.inference_mode():
            return model(sample)

    torch.set_num_threads(threads)
    with torch.no_grad():
        for _ in range(2):
            model(sample)
    return run


def torch_eager(case: Case, x: np.ndarray, threads: int) -> Run:
    """float32, eager."""
    return _torch(case, x, threads, torch.float32, False)


def torch_compiled(case: Case, x: np.ndarray, threads: int) -> Run:
    """float32 through torch.compile, weights frozen."""
    return _torch(case, x, threads, torch.float32, True)


def torch_bf16(case: Case, x: np.ndarray, threads: int) -> Run:
    """bfloat16, eager."""
    return _torch(case, x, threads, torch.bfloat16, False)


# --- ONNX Runtime ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _exported(twin: torch.nn.Module, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The twin as ONNX: (float32, quantised with QuantizeLinear and DequantizeLinear)."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    stream = io.BytesIO()
    torch.onnx.export(
        twin, (torch.zeros(2, *shape),), stream, input_names=["x"], output_names=["y"], dynamo=False,
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, opset_version=17,
    )  # fmt: skip
    floats = stream.getvalue()

    class Random(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            batch = np.random.default_rng(0).uniform(-1, 1, (8, 1, *shape)).astype(np.float32)
            self.items = iter([{"x": x} for x in batch])

        def get_next(self) -> Any:
            return next(self.items, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(onnx.load_from_string(floats), str(prepared))
        quantize_static(
            str(prepared), str(quantised), Random(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return floats, quantised.read_bytes()


def _onnx(case: Case, x: np.ndarray, threads: int, quantised: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = _exported(case.twin, case.shape)[quantised]
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def onnx_session(
    nodes: list[Any], constants: dict[str, np.ndarray], made: str, shape: tuple[int, ...], taken: str
) -> Any:
    """A session of one thread from x [shape] of type `taken` to y of type `made`."""
    import onnx
    import onnxruntime

    def kind(name: str) -> int:
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))

    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info("x", kind(taken), shape)],
        [helper.make_tensor_value_info("y", kind(made), None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnx_float(case: Case, x: np.ndarray, threads: int) -> Run:
    """ONNX Runtime float32."""
    return _onnx(case, x, threads, False)


def onnx_int8(case: Case, x: np.ndarray, threads: int) -> Run:
    """ONNX Runtime int8: per-channel weights, uint8 activations."""
    return _onnx(case, x, threads, True)


# --- OpenVINO ----------------------------------------------------------------------------------------


def _compiled(model: Any, x: np.ndarray, threads: int, **settings: str) -> Run:
    import openvino

    shape = list(x.shape)
    model.reshape({model.inputs[0]: shape})
    chosen = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", chosen | settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def run(_kept: np.ndarray = x) -> Any:  # the request reads it and does not hold it
        request.infer()
        return request.get_output_tensor(0).data

    return run


def _read(model: bytes) -> Any:
    import openvino

    return openvino.Core().read_model(io.BytesIO(model))


def openvino_float(case: Case, x: np.ndarray, threads: int) -> Run:
    """OpenVINO float32."""
    floats = _read(_exported(case.twin, case.shape)[0])
    return _compiled(floats, x, threads, INFERENCE_PRECISION_HINT="f32")


def openvino_bf16(case: Case, x: np.ndarray, threads: int) -> Run:
    """OpenVINO bfloat16."""
    floats = _read(_exported(case.twin, case.shape)[0])
    return _compiled(floats, x, threads, INFERENCE_PRECISION_HINT="bf16")


def openvino_int8(case: Case, x: np.ndarray, threads: int) -> Run:
    """OpenVINO int8, from ONNX Runtime's quantised model."""
    return _compiled(_read(_exported(case.twin, case.shape)[1]), x, threads)


def openvino_binary(case: Case, x: np.ndarray, threads: int) -> Run | None:
    """OpenVINO's BinaryConvolution; it takes levels, and returns the last accumulators."""
    if not case.binary:
        return None
    levels = np.ascontiguousarray(x / np.float32(case.network.input.scale))
    return _compiled(binary_model(case.network), levels, threads, INFERENCE_PRECISION_HINT="f32")


def _bits(weight: np.ndarray) -> Any:
    """+1 and -1 as a constant of bits."""
    import openvino

    packed = np.packbits(weight.reshape(-1) > 0, bitorder="little")
    own = openvino.Tensor(
        openvino.Type.u1, openvino.Shape(weight.shape)
    )  # of an array it would keep the address
    own.data.reshape(-1)[:] = packed
    return openvino.op.Constant(own)


def binary_product(weight: np.ndarray, rows: int) -> Run:
    """OpenVINO's signs of float32 [rows, K] times +1 and -1 [N, K], as a 1x1 convolution; one thread."""
    import openvino
    import openvino.opset1 as op

    place = op.parameter([rows, weight.shape[1], 1, 1], np.float32)
    zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    y = op.fake_quantize(place, zero, zero, zero, one, 2)
    kernel = _bits(weight.reshape(*weight.shape, 1, 1))
    y = op.binary_convolution(y, kernel, [1, 1], [0, 0], [0, 0], [1, 1], "xnor-popcount", 0.0)
    x = np.random.default_rng(0).standard_normal((rows, weight.shape[1], 1, 1)).astype(np.float32)
    return _compiled(openvino.Model([y], [place], "binary"), x, 1, INFERENCE_PRECISION_HINT="f32")


def binary_model(network: Network) -> Any:
    """A binary network as its user would write it for OpenVINO: BinaryConvolutions, signs by FakeQuantize.

    The first product, of 8-bit levels, is in float32, exactly; linear layers are convolutions as large as
    their image.
    """
    import openvino
    import openvino.opset1 as op

    shape = network.input.shape
    place = op.parameter([-1, *shape], np.float32)
    y: Any = place
    image = shape if shape[0] > 1 else (int(np.prod(shape)), 1, 1)
    if image != shape:
        y = op.reshape(y, np.array([-1, *image]), False)
    first = True
    for operation in network.operations:
        if isinstance(operation, Linear | Conv):
            weight = operation.weight.array
            if isinstance(operation, Linear):
                weight = weight.reshape(len(weight), *image)
            stride = list(operation.stride) if isinstance(operation, Conv) else [1, 1]
            before = [a for a, _ in operation.pads] if isinstance(operation, Conv) else [0, 0]
            after = [b for _, b in operation.pads] if isinstance(operation, Conv) else [0, 0]
            if first:
                y = op.convolution(y, weight.astype(np.float32), stride, before, after, [1, 1])
            else:
                kernel = _bits(weight)
                y = op.binary_convolution(y, kernel, stride, before, after, [1, 1], "xnor-popcount", 0.0)
            first, image = False, network.types[operation.name].shape
        elif isinstance(operation, MaxPool):
            y = op.max_pool(y, list(operation.stride), [0, 0], [0, 0], list(operation.kernel))
            image = network.types[operation.name].shape
        elif isinstance(operation, Threshold):
            assert isinstance(operation.format, Binary)
            limits = operation.thresholds.astype(np.float32).reshape(1, -1, 1, 1)
            up = (operation.direction > 0).astype(np.float32).reshape(limits.shape)
            limits = np.where(up > 0, limits - 0.5, 0.5 - limits)  # -acc >= t is acc < 0.5 - t
            y = op.fake_quantize(y, limits, limits, 1 - up, up, 2)
        if len(image) == 1:
            image = (image[0], 1, 1)
    return openvino.Model([y], [place], "binary")


PEERS: dict[str, tuple[tuple[str, ...], Build]] = {
    "torch float32": ((), torch_eager),
    "torch compiled": ((), torch_compiled),
    "torch bfloat16": ((), torch_bf16),
    "ONNX Runtime float32": (("onnx", "onnxruntime"), onnx_float),
    "ONNX Runtime int8": (("onnx", "onnxruntime"), onnx_int8),
    "OpenVINO float32": (("onnx", "onnxruntime", "openvino"), openvino_float),
    "OpenVINO bfloat16": (("onnx", "onnxruntime", "openvino"), openvino_bf16),
    "OpenVINO int8": (("onnx", "onnxruntime", "openvino"), openvino_int8),
    "OpenVINO binary": (("openvino",), openvino_binary),
}
"""Name -> (packages it needs, how to build a call)."""


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]
