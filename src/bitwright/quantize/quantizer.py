"""Quantizer: format x controller x rounding x estimator, as a module with its state in buffers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Block, Fixed, Format, Int, Rounding, tensor_id, twin
from bitwright.quantize import ranks
from bitwright.quantize.controllers import State, Static
from bitwright.quantize.estimators import Gradients, Pass, estimate, quantize_and_measure
from bitwright.quantize.spec import Quantized, QuantizerSpec
from bitwright.quantize.statistics import Measured, Statistic, measure
from bitwright.quantize.transforms import Transform

Witness = Callable[
    ["Quantizer", torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None], None
]
"""Is shown (quantiser, x, scale, zero point, key) of a pass before it is made; it changes none of them."""


class Quantizer(nn.Module):
    """Quantises one tensor of training.

    Time: uses the scale in its buffer; what it measures in a step sets the scale of the next. The first
    training batch (or `calibrate`) initialises the scale with an extra pass. In eval nothing moves, and
    stochastic rounding becomes nearest.

    State: what the controller remembers and what the present step measured are buffers (a learnt scale is
    a Parameter), so that a checkpoint resumes bit for bit. Neither `forward` nor `tick` reads them on the
    host.

    Args:
        spec: format, controller, rounding and estimator.
        name: qualified name and role of the tensor: it keys the random bits.
        channel_axis: the axis that "per channel" means.
        seed: of the random bits.
        replicated: the tensor is the same on every rank (a weight), and draws the same random bits there;
            elsewhere (activations, errors) rank r > 0 draws those of the name "<name>@<r>".
        block_axis: the axis that the blocks of a block format run along.
    """

    initialized: torch.Tensor
    key: torch.Tensor

    def __init__(
        self,
        spec: QuantizerSpec,
        name: str = "",
        channel_axis: int = 0,
        seed: int = 0,
        replicated: bool = True,
        block_axis: int = -1,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.name = name
        self.channel_axis = channel_axis
        self.replicated = replicated
        self.block_axis = block_axis
        self.calibrating = False
        self.witness: Witness | None = None
        controller = spec.controller
        self._rank = 0
        self.calibrated = False  # whether the calibration under way, or the last one, reached it
        self._ready = False  # the host's copy of `initialized`
        self._wants = tuple(s for s in Statistic if s in controller.wants)
        self._state: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        if isinstance(controller, Static):
            step = spec.format.scale_or_default(controller.scale)
            scale = torch.tensor(step, dtype=torch.float32) if step != 1.0 else None
            self.register_buffer("scale", scale, persistent=False)
        elif controller.present:
            self.register_buffer("scale", None, persistent=False)
        else:
            for key, value in controller.state(spec.format).items():
                if controller.learns:
                    self.register_parameter(key, nn.Parameter(value))
                else:
                    self.register_buffer(key, value)
                self._state += (key,)
            for statistic in self._wants:
                self.register_buffer(statistic.value, torch.zeros((), dtype=statistic.dtype))
            self._names = (*self._state, *(statistic.value for statistic in self._wants))
            self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        if spec.rounding is Rounding.STOCHASTIC:
            # (seed, tensor, step, call)
            words = torch.tensor([seed, tensor_id(name), 0, 0], dtype=torch.int64)
            self.register_buffer("key", words, persistent=False)
        # (training, watching) -> what a pass does; built once, for small tensors' sake
        self._passes = {
            (training, watching): Pass(
                spec.format,
                spec.rounding if training else _eval_rounding(spec),
                spec.overflow,
                spec.random_bits,
                spec.estimator,
                self._wants if watching else (),
                self._statistics_axis(),
                block_axis=block_axis,
            )
            for training in (False, True)
            for watching in (False, True)
        }

    def relax(self, bound: float) -> None:
        """Widen the hard tanh whose gradient a clipped binary quantiser has, from 1 to `bound`."""
        self._passes = {when: replace(what, hard_tanh=bound) for when, what in self._passes.items()}

    @property
    def format(self) -> Format:
        """The format of the codes; narrower than the spec's where its controller dropped bits."""
        return self._passes[True, True].form

    @property
    def rounding(self) -> Rounding:
        """The rounding now: in eval nothing is stochastic."""
        return self.spec.rounding if self.training else _eval_rounding(self.spec)

    @property
    def level_max(self) -> int:
        """The largest |level|: the format's, or all codes' where a zero point is taken off."""
        form = self.format
        return form.level_max if self.current_zero_point() is None else form.code_max - form.code_min

    def current_scale(self) -> torch.Tensor | None:
        """The scale in force, without a gradient; None stands for 1."""
        controller = self.spec.controller
        if not controller.moves:
            static: torch.Tensor | None = self._buffers["scale"]
            return static
        if not self._ready:
            raise InvalidValueError(
                f"a {controller} scale is set by the first training batch or by calibration",
                where=f"a {self.format} quantiser that has seen no data",
                fix="train a step, or call bitwright.calibrate(model, batches)",
            )
        return controller.scale_of(self.state(), self.format)

    def current_zero_point(self) -> torch.Tensor | None:
        """The zero point in force, int32; None where the controller sets none."""
        return self._buffers.get("zero_point")

    def state(self) -> State:
        """What the controller remembers and what was measured since the tick, by name."""
        buffers, parameters = self._buffers, self._parameters
        return {name: buffers[name] if name in buffers else parameters[name] for name in self._names}  # type: ignore[misc]

    def forward(self, x: torch.Tensor, measured: bool = True) -> Quantized:
        """`x` of any shape -> its levels and scale.

        Args:
            x: a float tensor.
            measured: whether its statistics count (in training and calibration only).
        """
        controller = self.spec.controller
        if controller.present:
            return Quantized(self._present_values(x))
        x = self.spec.transformed(x)
        scale, zero_point, what, candidates = self._prepare(x, measured)
        parameter = next(iter(self._parameters.values())) if controller.learns else None
        key = self._next_key()
        if self.witness is not None:
            self.witness(self, x, scale, zero_point, key)
        levels, taken = estimate(x, what, scale, zero_point, key, parameter, candidates)
        self._merge(taken)
        if isinstance(self.format, Block):
            return Quantized(levels)  # values: every block has its own scale
        return Quantized(levels, scale, zero_point)

    @torch.no_grad()
    def quantize_(self, x: torch.Tensor, measured: bool = True) -> torch.Tensor:
        """Put `x` on the grid in place, as values and without a gradient: for what the optimiser stores."""
        if self.spec.controller.present:
            return x.copy_(self._present_values(x))
        if self.spec.transform is not Transform.NONE:
            x.copy_(self.spec.transformed(x))
        scale, zero_point, what, candidates = self._prepare(x, measured)
        key = self._next_key()
        if self.witness is not None:
            self.witness(self, x, scale, zero_point, key)
        _, taken = quantize_and_measure(x, scale, zero_point, key, what, candidates, out=x)
        self._merge(taken)
        return x

    @torch.no_grad()
    def _present_values(self, x: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        return spec.controller.values(x, spec.format, self.rounding, self._next_key(), spec.random_bits)

    def _prepare(
        self, x: torch.Tensor, measured: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Pass, torch.Tensor | None]:
        """(scale, zero point, what the pass does, candidate scales) for one pass over `x`."""
        controller = self.spec.controller
        active = self.training or self.calibrating
        # a scale that settles starts anew in each calibration
        again = controller.settles and self.calibrating and not self.calibrated
        if controller.moves and active and (again or not self._ready):
            self._initialise(x)
        scale, zero_point = self.current_scale(), self.current_zero_point()
        if scale is not None and scale.device != x.device:
            scale = scale.to(x.device)
        elif scale is not None and controller.moves:
            scale = scale.clone()  # the tick moves the buffer in place, and backward passes may come after it
        if zero_point is not None:
            zero_point = zero_point.clone()
        watching = measured and (self.calibrating or (self.training and not controller.settles))
        what = self._passes[self.training, watching]
        if controller.learns:
            what = replace(what, learnt=self._gradients(x))
        candidates = None
        if watching and Statistic.ERRORS in self._wants:
            candidates = controller.candidates(self.state())
        return scale, zero_point, what, candidates

    def quantize(self, x: torch.Tensor, measured: bool = True) -> torch.Tensor:
        """The values on the grid, without a gradient."""
        with torch.no_grad():
            quantized: Quantized = self(x, measured)
            return quantized.value()

    @torch.no_grad()
    def eval_levels(self, quotient: torch.Tensor) -> torch.Tensor:
        """Levels of x / scale as eval mode rounds them: for who has divided by the scale already."""
        rounding, zero_point = _eval_rounding(self.spec), self.current_zero_point()
        return twin.numbers(self.format, quotient, 1.0, rounding, self.spec.overflow, zero_point=zero_point)

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Take the statistics of `x` and do no more."""
        controller = self.spec.controller
        if not self._ready:
            self._initialise(x)
        scale, axis = self.current_scale(), self._statistics_axis()
        self._merge(measure(x, self.format, scale, self.current_zero_point(), self._wants, axis,
                            controller.candidates(self.state())))  # fmt: skip

    @torch.no_grad()
    def tick(self, step: int | torch.Tensor) -> None:
        """Begin training step `step`: what was measured since the last tick moves the scale."""
        if self._ready and self._wants and not self.spec.controller.settles:
            self._take(self.spec.controller.move(self.state(), self.format))
            self._forget()
        self.after_tick(step)

    def after_tick(self, step: int | torch.Tensor) -> None:
        """What a tick does beside moving the scale."""
        if self.spec.rounding is Rounding.STOCHASTIC:
            self._rekey(step)
        self._narrow()

    def joins(self) -> Hashable | None:
        """What quantisers share whose scales may move as one vector; None: it moves alone."""
        controller = self.spec.controller
        if not controller.elementwise or controller.settles or not self._ready:
            return None
        if any(t.dim() for t in self.state().values()):
            return None  # per channel
        return controller, self.format, self.initialized.device

    # --- calibration -------------------------------------------------------------------------------------

    def begin_calibration(self) -> None:
        """Forget what the present step measured, and measure in eval mode too."""
        self.calibrating, self.calibrated = True, False
        self._forget()

    def end_calibration(self, settle: bool) -> None:
        """Stop; where `settle`, set the scale from what was measured."""
        self.calibrating = False
        if settle and self.calibrated:
            fresh = {n: t.to(self.initialized.device) for n, t in self._fresh_memory().items()}
            self._take(fresh | self.spec.controller.settle(self.state(), self.format))
        if self.calibrated:
            self._forget()

    def _fresh_memory(self) -> State:
        return {} if self.spec.controller.learns else self.spec.controller.state(self.format)

    # --- state -------------------------------------------------------------------------------------------

    def adopt(self, held: State) -> None:
        """Use these very tensors as buffers: what an optimiser keeps of a quantiser, and loads."""
        for name, value in held.items():
            if getattr(self, name) is not value:
                setattr(self, name, value)
        if held and not self._ready:
            self.initialized.fill_(True)
            self._ready = True
            self._narrow()

    def statistics(self) -> list[tuple[Statistic, torch.Tensor]]:
        """What was measured since the tick: what ranks exchange."""
        if not self._ready or (self.spec.controller.settles and not self.calibrated):
            return []
        return [(statistic, getattr(self, statistic.value)) for statistic in self._wants]

    @torch.no_grad()
    def replace_statistics(self, values: Iterable[torch.Tensor]) -> None:
        """Put what all ranks measured in the place of what this one did."""
        for (_, buffer), value in zip(self.statistics(), values, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def _initialise(self, x: torch.Tensor) -> None:
        axis = self._statistics_axis()
        state = {name: getattr(self, name) for name in self._state}
        self._take(self.spec.controller.first(x.detach(), state, self.format, axis, ranks.merge_one))
        self.initialized.fill_(True)
        self._ready = True

    def _statistics_axis(self) -> int | None:
        return self.channel_axis if self.spec.controller.per == "channel" else None

    def _gradients(self, x: torch.Tensor) -> Gradients | None:
        controller = self.spec.controller
        features = x.numel() if self.replicated or not x.dim() else x.numel() // max(x.shape[0], 1)
        return controller.gradients(features)

    @torch.no_grad()
    def _merge(self, taken: Measured) -> None:
        if taken and self.calibrating:
            self.calibrated = True
        for statistic, value in taken.items():
            buffer = getattr(self, statistic.value)
            if buffer.shape == value.shape:
                statistic.merge.into(buffer, value.to(buffer.device))
            else:  # per channel, the first time
                setattr(self, statistic.value, value)

    @torch.no_grad()
    def _take(self, changed: State) -> None:
        for name, value in changed.items():
            held = getattr(self, name)
            if held.shape == value.shape:
                held.copy_(value)
            else:
                setattr(self, name, value.to(held.dtype))

    def _narrow(self) -> None:
        """Follow `dropped`: the one count that is read on the host, of formats that may lose bits."""
        if not self.spec.controller.narrows:
            return
        form = self.spec.format
        assert isinstance(form, Fixed | Int)
        form = replace(form, width=form.width - int(self.get_buffer("dropped")))
        if form != self.format:
            self._passes = {when: replace(what, form=form) for when, what in self._passes.items()}

    def _forget(self) -> None:
        for statistic in self._wants:
            getattr(self, statistic.value).zero_()

    def _next_key(self) -> torch.Tensor | None:
        if self.rounding is not Rounding.STOCHASTIC:
            return None
        key = self.key.clone()
        self.key[3] += 1
        return key

    def _rekey(self, step: int | torch.Tensor) -> None:
        self.key[2] = step
        self.key[3] = 0
        rank = 0 if self.replicated else ranks.index()
        if rank != self._rank:
            self._rank = rank
            self.key[1] = tensor_id(f"{self.name}@{rank}" if rank else self.name)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # a float checkpoint has no quantiser state, and loads strictly all the same
        for held in (self._buffers, self._parameters):
            for name, tensor in list(held.items()):
                if tensor is None or name in self._non_persistent_buffers_set:
                    continue
                stored = state_dict.setdefault(prefix + name, tensor.detach())
                if name in self._buffers and stored.shape != tensor.shape:
                    shaped = torch.zeros(stored.shape, dtype=tensor.dtype, device=tensor.device)
                    self._buffers[name] = shaped
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.spec.controller.moves:
            self._ready = bool(self.initialized)
        self._narrow()

    def extra_repr(self) -> str:
        return str(self.spec)


def _eval_rounding(spec: QuantizerSpec) -> Rounding:
    return Rounding.NEAREST_EVEN if spec.rounding is Rounding.STOCHASTIC else spec.rounding
