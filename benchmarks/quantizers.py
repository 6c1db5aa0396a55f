"""Quantisers against a copy: how much emulating a format costs beside moving the memory.

    python benchmarks/quantizers.py --json experiments/results/quantizers.json

16 Mi float32 into a reused buffer, one thread, with max-abs and overflow counts; each format alternates
with `torch.Tensor.copy_` into a reused buffer. The output is checked against the scalar reference in the
same run. Peers are timed where they are installed (benchmarks/requirements.txt); they return fresh memory,
so the whole runs twice, with glibc's default allocator and with `bitwright.training.tune_allocator()`.
"""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from interleaved import show, time_pairs, write

import bitwright as bw
from bitwright.formats import Format, Rounding, block_twin
from bitwright.formats.block import Block

Run = Callable[[torch.Tensor], object]
OURS = (
    ("fixed8.4", "nearest-even"),
    ("fixed8.4", "stochastic"),
    ("e4m3fn", "nearest-even"),
    ("e4m3fn", "stochastic"),
    ("bfp8x32", "nearest-even"),
    ("mxfp8e4m3", "nearest-even"),
    ("mxfp4", "nearest-even"),
    ("nvfp4", "nearest-even"),
    ("log4", "nearest-even"),
    ("binary", "nearest-even"),
    ("int8, float scale", "nearest-even"),
)
LIMITS = {
    ("fixed8.4", "nearest-even"): 1.1,
    ("e4m3fn", "nearest-even"): 1.1,
    ("bfp8x32", "nearest-even"): 1.1,
    ("fixed8.4", "stochastic"): 1.5,
    ("e4m3fn", "stochastic"): 1.5,
    ("mxfp8e4m3", "nearest-even"): 1.5,
}
CHECKED = 4096


def check(
    form: Format, scale: float | None, rounding: str, key: bw.Key, x: torch.Tensor, y: torch.Tensor
) -> None:
    """Compare the output with the scalar reference on drawn elements, or whole blocks."""
    flat, out = x.flatten(), y.flatten()
    generator = random.Random(0)
    if isinstance(form, Block):
        for _ in range(CHECKED // form.size):
            start = generator.randrange(x.numel() // form.size) * form.size
            row = flat[start : start + form.size].tolist()
            codes, scales = form.encode_row(row, 1.0, Rounding.of(rounding))
            assert form.decode_row(codes, scales) == out[start : start + form.size].tolist(), (form, start)
        return
    for _ in range(CHECKED):
        i = generator.randrange(x.numel())
        how = (Rounding.of(rounding), bw.Overflow.SATURATE, key, None)
        code = form._encode_scalar(float(flat[i]), scale, *how, element=i)
        assert form.decode(code, scale=scale) == float(out[i]), (str(form), float(flat[i]))


def peers(x: torch.Tensor) -> Iterator[tuple[str, str, Run]]:
    """(format, name, call) of the peers that are installed."""
    yield (
        "fixed8.4",
        "torch.fake_quantize",
        lambda x: torch.fake_quantize_per_tensor_affine(x, 2**-4, 0, -128, 127),
    )
    yield "fixed8.4", "torch eager", lambda x: torch.round(x * 16).clamp_(-128, 127).mul_(2**-4)

    @torch.compile
    def nearest(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q = x * 16
        return torch.round(q).clamp(-128, 127) / 16, x.abs().amax(), ((q > 127) | (q < -128)).sum()

    yield "fixed8.4", "torch compiled, same statistics", nearest

    @torch.compile
    def stochastic(x: torch.Tensor) -> torch.Tensor:
        return torch.floor(x * 16 + torch.rand_like(x)).clamp(-128, 127) / 16

    yield "fixed8.4 stochastic", "torch compiled", stochastic

    @torch.compile
    def mxfp8(x: torch.Tensor) -> torch.Tensor:
        form = bw.format("mxfp8e4m3")
        number, scales = block_twin.numbers(form, x, -1, 1.0, Rounding.NEAREST_EVEN, bw.Overflow.SATURATE)
        return block_twin.values(form, number, scales, -1, 1.0)

    yield "mxfp8e4m3", "torch compiled (our twin)", mxfp8
    if importlib.util.find_spec("qtorch"):
        from qtorch.quant import block_quantize, fixed_point_quantize, float_quantize

        yield "fixed8.4", "QPyTorch", lambda x: fixed_point_quantize(x, 8, 4, rounding="nearest")
        yield (
            "fixed8.4 stochastic",
            "QPyTorch",
            lambda x: fixed_point_quantize(x, 8, 4, rounding="stochastic"),
        )
        yield "e4m3", "QPyTorch", lambda x: float_quantize(x, 4, 3, rounding="nearest")
        yield "bfp8", "QPyTorch", lambda x: block_quantize(x, 8, dim=0, rounding="nearest")
    if importlib.util.find_spec("brevitas"):
        import brevitas.nn as qnn

        identity = qnn.QuantIdentity(bit_width=8, return_quant_tensor=False).eval()
        yield "int8, float scale", "Brevitas", identity
    if importlib.util.find_spec("mx"):
        from mx.mx_ops import quantize_mx_op
        from mx.specs import MxSpecs

        specs = MxSpecs()
        specs["scale_bits"], specs["block_size"], specs["custom_cuda"] = 8, 32, False
        yield "mxfp8e4m3", "microxcaling", lambda x: quantize_mx_op(x, specs, "fp8_e4m3", axes=[-1])


def measure(allocator: str, size: int, pairs: int, with_peers: bool) -> list[dict[str, Any]]:
    """Time every contender under one allocator."""
    if allocator == "tuned":
        from bitwright.training import tune_allocator

        tune_allocator()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size // 4096, 4096, generator=generator) * 3
    y, reused = torch.empty_like(x), torch.empty_like(x)
    rows = []

    def copy() -> None:
        reused.copy_(x)

    key = bw.Key(0, "benchmark")
    for name, rounding in OURS:
        form = bw.format(name.split(",")[0])
        scale = 0.037 if "float scale" in name else None

        def ours(form: Format = form, rounding: str = rounding, scale: float | None = scale) -> None:
            if isinstance(form, Block):
                form.quantize(x, scale=scale, rounding=rounding, key=key, out=y)
            else:
                form.quantize(x, scale=scale, rounding=rounding, key=key, out=y)

        ours()
        check(form, scale, rounding, key, x, y)
        times = time_pairs(copy, ours, pairs)
        rows.append({"format": name, "rounding": rounding, "by": "bitwright", "allocator": allocator} | times)
    if with_peers:
        for name, by, run in peers(x):
            times = time_pairs(copy, lambda run=run: run(x), max(pairs // 5, 3))
            rows.append({"format": name, "rounding": "", "by": by, "allocator": allocator} | times)
    return rows


@click.command()
@click.option("--size", default=1 << 24, show_default=True, help="Elements.")
@click.option("--pairs", default=30, show_default=True, help="Timed pairs of each contender and the copy.")
@click.option("--peers/--no-peers", "with_peers", default=True, show_default=True)
@click.option(
    "--allocator", type=click.Choice(["default", "tuned", "both"]), default="both", show_default=True
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the record here.")
def main(size: int, pairs: int, with_peers: bool, allocator: str, path: Path | None) -> None:
    """Time quantisers against a copy of the same memory."""
    rows: list[dict[str, Any]] = []
    if allocator == "both":
        for one in ("default", "tuned"):  # the allocator is the process's
            part = Path(f"{path or 'quantizers'}.{one}")
            options = ["--size", size, "--pairs", pairs, "--allocator", one, "--json", part]
            command = [sys.executable, __file__, *map(str, options), *([] if with_peers else ["--no-peers"])]
            subprocess.run(command, check=True)
            rows += json.loads(part.read_text())["rows"]
            part.unlink()
    else:
        rows = measure(allocator, size, pairs, with_peers)
        show(
            f"{size:,} floats, {allocator} allocator, one thread",
            ("format", "rounding", "by", "time / copy", "limit"),
            [
                (r["format"], r["rounding"], r["by"], f"{r['ratio']:.2f}",
                 f"{LIMITS.get((r['format'], r['rounding']), '')}" if r["by"] == "bitwright" else "")
                for r in rows
            ],
        )  # fmt: skip
    write(path, {"size": size, "pairs": pairs, "statistics": "max |x|, overflow counts", "rows": rows})


if __name__ == "__main__":
    main()
