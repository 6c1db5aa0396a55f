"""ggml's product of ternary weights (TQ2_0), through the libraries that `llama-cpp-python` builds."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TYPE_F32, TYPE_TQ2_0 = 0, 35  # enum ggml_type
MEGABYTE = 1 << 20


class _Parameters(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def product(x: np.ndarray, levels: np.ndarray, threads: int) -> Callable[[], Any]:
    """x float32 [M, K] times ternary levels [N, K], the weights packed once: y float32 [M, N] in place."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("ggml_init", pointer, [_Parameters]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
        ("ggml_get_data", pointer, [pointer]),
        ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        ("ggml_new_graph", pointer, [pointer]),
        ("ggml_build_forward_expand", None, [pointer, pointer]),
        (
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            [ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer],
        ),
    ):
        function = getattr(base, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_cpu_init()
    cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]

    (m, k), n = x.shape, len(levels)
    context = base.ggml_init(_Parameters(256 * MEGABYTE, None, False))
    weight = base.ggml_new_tensor_2d(context, TYPE_TQ2_0, k, n)
    floats = np.ascontiguousarray(levels, np.float32)
    base.ggml_quantize_chunk(TYPE_TQ2_0, floats.ctypes.data, base.ggml_get_data(weight), 0, n, k, None)
    source = base.ggml_new_tensor_2d(context, TYPE_F32, k, m)
    ctypes.memmove(base.ggml_get_data(source), np.ascontiguousarray(x, np.float32).ctypes.data, 4 * m * k)
    result = base.ggml_mul_mat(context, weight, source)
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, result)
    address = base.ggml_get_data  # the result's memory exists from the start: no_alloc is false

    def run() -> np.ndarray:
        cpu.ggml_graph_compute_with_ctx(context, graph, threads)
        data = ctypes.cast(address(result), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, (m, n))

    return run
