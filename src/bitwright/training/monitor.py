"""Seeing quantisers at work: overflow, scale, SQNR, flipped and dead codes of every tensor, now and then.

At a sampled step each quantiser shows what it is about to round: of the leading rows, up to `ELEMENTS`
numbers are rounded a second time, with the same scale and random bits, and measured. Between samples
nothing happens but a test for None. The interval stretches until sampling takes at most `SHARE` of the time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from bitwright.errors import FileFormatError
from bitwright.formats import Block, operators
from bitwright.optim import stored_quantizers
from bitwright.quantize import Quantizer, quantizers
from bitwright.training.loop import Watcher

ELEMENTS = 1 << 14
"""Of a tensor that are looked at."""
COUNTED_BITS = 8
"""Codes of wider formats are not counted: too few elements are looked at."""
SHARE = 0.01
MONITOR = "monitor.jsonl"
"""The file of a run folder: one line a sampled step."""


@dataclass(frozen=True)
class Reading:
    """One tensor at one step; over the leading rows that were looked at.

    Attributes:
        format: of its codes.
        scale: the worth of one level; the mean where it varies by channel, None where it is 1 or a block's.
        moved: log2 of the scale over that of the last reading.
        overflow: share of elements beyond the format's limits.
        sqnr: 10 log10(sum x^2 / sum (y - x)^2), dB; None for a tensor of zeros or without an error.
        flipped: share of elements whose code is another than at the last reading; stored tensors and
            weights only.
        dead: how many codes do not occur, of `codes`; None for formats above 8 bits.
    """

    format: str
    scale: float | None
    moved: float | None
    overflow: float
    sqnr: float | None
    flipped: float | None
    dead: int | None
    codes: int | None


class Monitor(Watcher):
    """A watcher that samples every quantiser of the model and of the optimiser.

    Args:
        out: the run folder, where each sample becomes a line of monitor.jsonl; None keeps the last only.
        every: steps between samples, at least.
    """

    def __init__(self, out: Path | None = None, every: int = 50) -> None:
        self.path = None if out is None else out / MONITOR
        self.every = every
        self.step = 0
        self.last: dict[str, Reading] = {}
        self._codes: dict[str, torch.Tensor] = {}
        self._scales: dict[str, float] = {}
        self._found: dict[str, Reading] = {}
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._next = 2  # what the optimiser stores has its quantisers after the first step
        self._done = 0
        self._began = time.perf_counter()
        self._spent = 0.0

    # --- a watcher ----------------------------------------------------------------------------------------

    def run_begins(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Whose quantisers are looked at."""
        self._model, self._optimizer = model, optimizer

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Number the steps from the start of the whole run, also after a resume."""
        self.step = epoch * steps
        self._next = max(self._next, self.step + 2 * (self._done == 0))
        self._arm()

    def step_ends(self, loss: float) -> None:
        """Collect what a sampled step has shown."""
        self.step += 1
        self._done += 1
        if self._found:
            began = time.perf_counter()
            self._show(None)
            self.last, self._found = self._found, {}
            self._write()
            self._spent += time.perf_counter() - began
            elapsed = max(time.perf_counter() - self._began, 1e-9)
            # as many steps as bring the share of time down to SHARE
            wait = math.ceil(self._done * (self._spent / elapsed / SHARE - 1))
            self._next = self.step + max(self.every, wait)
        self._arm()

    # --- sampling -----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """The quantisers show themselves in the coming step, if its turn has come."""
        if self.step + 1 >= self._next:
            self._show(self)

    def _show(self, witness: Monitor | None) -> None:
        for quantizer in self._quantizers():
            quantizer.witness = witness

    def _quantizers(self) -> Iterator[Quantizer]:
        if self._model is not None:
            yield from quantizers(self._model)
        if self._optimizer is not None:
            yield from stored_quantizers(self._optimizer)

    @torch.no_grad()
    def __call__(
        self,
        quantizer: Quantizer,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        zero_point: torch.Tensor | None,
        key: torch.Tensor | None,
    ) -> None:
        """A quantiser is about to round `x`: measure its leading rows."""
        if quantizer.name in self._found or not x.numel() or not quantizer.training:
            return
        began = time.perf_counter()
        rows = max(1, ELEMENTS * len(x) // x.numel()) if x.dim() else 1
        shown = x.detach()[:rows] if x.dim() else x.detach()
        factor, shift = (t[:rows] if t is not None and _varies(t, x) else t for t in (scale, zero_point))
        self._found[quantizer.name] = self._measure(quantizer, shown, factor, shift, key)
        self._spent += time.perf_counter() - began

    def _measure(
        self,
        quantizer: Quantizer,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        zero_point: torch.Tensor | None,
        key: torch.Tensor | None,
    ) -> Reading:
        spec, name = quantizer.spec, quantizer.name
        blocks = isinstance(spec.format, Block)
        number, _, counts = operators.quantize(
            spec.format, x, scale, quantizer.rounding, spec.overflow, key, spec.random_bits, zero_point,
            scaled=blocks, axis=quantizer.block_axis,
        )  # fmt: skip
        value = number if scale is None or blocks else number * scale
        signal, noise = x.double().square().sum(), (value.double() - x).square().sum()
        worth = None if scale is None else float(scale.float().mean())
        before = self._scales.get(name)
        counted = not blocks and spec.format.bits <= COUNTED_BITS
        codes = len(spec.format.codes()) if counted else None
        flipped = None
        if quantizer.replicated and not name.endswith("weight_grad"):  # the same tensor at every step
            held = self._codes.get(name)
            if held is not None and held.shape == number.shape:
                flipped = float((held != number).double().mean())
            self._codes[name] = number
        if worth is not None:
            self._scales[name] = worth
        return Reading(
            format=str(spec.format),
            scale=worth,
            moved=None if worth is None or before is None else math.log2(worth / before),
            overflow=float(counts[0]) / x.numel(),
            sqnr=10 * math.log10(float(signal / noise)) if signal > 0 and noise > 0 else None,
            flipped=flipped,
            dead=None if codes is None else max(codes - len(torch.unique(number)), 0),
            codes=codes,
        )

    def _write(self) -> None:
        if self.path is None:
            return
        line = {"step": self.step, "tensors": {name: asdict(r) for name, r in self.last.items()}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise FileFormatError("the run folder can be written to", got=error, where=self.path) from error


def read_monitor(path: Path) -> list[tuple[int, dict[str, Reading]]]:
    """(step, tensor -> reading) of every sample of a run; a step that was done again counts once."""
    samples: dict[int, dict[str, Reading]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            samples[int(sample["step"])] = {n: Reading(**r) for n, r in sample["tensors"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError("monitor.jsonl has one sample a line", got=error, where=path) from error
    return sorted(samples.items())


def _varies(t: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether a scale has a value for each row of x."""
    return t.dim() == x.dim() and x.dim() > 0 and t.shape[0] > 1
