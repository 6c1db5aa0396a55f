"""Autoflex: the exponent predicted from the history of maxima (Koester et al., 2017, Algorithms 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Flex, Format, Integers, twin
from bitwright.quantize.controllers.base import Controller, State, ceil_log2, check_count, check_number
from bitwright.quantize.statistics import Statistic

MIN_BITS = 4
"""With fewer, the jumps of Algorithm 1 have no length."""
OCTAVES = 256
"""Of float32: Algorithm 1 crosses them in jumps of floor((N-1)/2) up or N-2 down."""
REMAINING = 6
"""Its steps after that: a few, as a jump from one significant bit or more comes close."""


@dataclass(frozen=True)
class Autoflex(Controller):
    """At each tick, from the largest magnitude phi of the step before (Algorithm 2), for N-bit numbers:

        Gamma = min(round(phi / kappa), 2^(N-1) - 1)         what was stored, saturated
        Gamma >= 2^(N-1) - 1: forget the history, Gamma = 2 Gamma
        append Gamma kappa to the history f, of `window` entries
        chi   = alpha (max f + beta std f + gamma kappa)      population standard deviation
        kappa = 2^(ceil(log2 chi) - N + 1)

    kappa = 2^-e is the scale; e stays within the window of the format (`Flex.exponents`; that of normal
    float32 for other integers). Calls and ranks merge by the maximum of phi; a step without data moves
    nothing. The first batch, or a calibration, starts from Algorithm 1: from kappa = 1, up by
    2^floor((N-1)/2) at each overflow, down straight to the target where the top bits are unused. All zeros
    leave the exponent nearest to kappa = 1.

    Args:
        alpha: multiplicative headroom.
        beta: standard deviations.
        gamma: additive headroom, in units of the last bit.
        window: entries of the history.
    """

    alpha: float = 2.0
    beta: float = 3.0
    gamma: float = 100.0
    window: int = 16

    wants = frozenset({Statistic.MAX_ABS, Statistic.COUNT})

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0)
        check_number("beta", self.beta, 0, open_low=False)
        check_number("gamma", self.gamma, 0, open_low=False)
        check_count("window", self.window)

    def check(self, form: Format) -> None:
        if not isinstance(form, Integers) or not form.signed or form.bits < MIN_BITS:
            raise InvalidValueError(
                f"autoflex serves two's-complement formats of {MIN_BITS} bits and more",
                got=form,
                fix="use flex16+5",
            )

    def state(self, form: Format) -> State:
        return {
            "scale": torch.ones(()),
            "history": torch.zeros(self.window, dtype=torch.float64),
            "length": torch.zeros((), dtype=torch.int64),
            "position": torch.zeros((), dtype=torch.int64),
        }

    def initial(self, measured: State, form: Format) -> State:
        """Algorithm 1; its two long runs, up from overflow and down from all zeros, are taken at once."""
        bits, half = form.bits, (form.bits - 1) // 2
        phi = measured["max_abs"].double()
        runs = torch.arange(OCTAVES // half + 1, device=phi.device)
        ups = (_mantissa(phi, _after(runs * half, form), form) >= form.code_max).sum()
        downs = (_mantissa(phi, _after(-runs * (bits - 2), form), form) == 0).sum()
        exponent = _after(ups * half - downs * (bits - 2), form)
        done = phi == 0
        for _ in range(REMAINING):
            mantissa = _mantissa(phi, exponent, form)
            over = mantissa >= form.code_max
            under = ~over & (mantissa < 2.0 ** (bits - 2))
            jump = ceil_log2(mantissa.clamp(min=1)) - (bits - 2)
            moved = _within(exponent + torch.where(over, half, torch.where(under, jump, 0)), form)
            exact = under & (mantissa > 2.0 ** (half - 2))
            exponent, done = torch.where(done, exponent, moved), done | ~(over | under) | exact
        zeros = torch.zeros_like(exponent)
        return {"scale": _power(_within(torch.where(phi == 0, zeros, exponent), form))}

    def move(self, state: State, form: Format) -> State:
        kappa = state["scale"].double()
        exponent = ceil_log2(kappa)
        mantissa = _mantissa(state["max_abs"].double(), exponent, form)
        over = mantissa >= form.code_max
        mantissa = torch.where(over, 2 * mantissa, mantissa)
        # a ring: `position` is written next, `length` entries are valid
        position = torch.where(over, 0, state["position"])
        length = torch.where(over, 1, (state["length"] + 1).clamp(max=self.window))
        place = torch.arange(self.window, device=kappa.device)
        history = torch.where(place == position, mantissa * kappa, state["history"])
        valid = place < length
        mean = torch.where(valid, history, 0.0).sum() / length
        variance = torch.where(valid, (history - mean).square(), 0.0).sum() / length
        largest = torch.where(valid, history, 0.0).amax()
        chi = self.alpha * (largest + self.beta * variance.sqrt() + self.gamma * kappa)
        smallest = 2.0**-1000  # chi is 0 only for zeros and gamma = 0
        moved = {
            "scale": _power(_within(ceil_log2(chi.clamp(min=smallest)) - form.bits + 1, form)),
            "history": history,
            "length": length,
            "position": (position + 1) % self.window,
        }
        return {n: torch.where(state["count"] > 0, value, state[n]) for n, value in moved.items()}

    def __str__(self) -> str:
        usual = Autoflex()
        names = [n for n in ("alpha", "beta", "gamma", "window") if getattr(self, n) != getattr(usual, n)]
        return ", ".join(["autoflex", *(f"{n} {getattr(self, n):g}" for n in names)])


def _mantissa(phi: torch.Tensor, exponent: torch.Tensor, form: Format) -> torch.Tensor:
    """Gamma: the largest stored |integer|, saturated; float64."""
    return (phi / twin.power_of_two(exponent)).round().clamp(max=form.code_max)


def _within(exponent: torch.Tensor, form: Format) -> torch.Tensor:
    """log2 kappa within the window of the format."""
    low, high = -126, 127
    if isinstance(form, Flex):
        low, high = -form.exponents[-1], -form.exponents[0]
    return exponent.clamp(low, high)


def _after(jumps: torch.Tensor, form: Format) -> torch.Tensor:
    """log2 kappa after jumps that add up to that: kappa = 1 itself may lie outside the window."""
    return torch.where(jumps == 0, 0, _within(jumps, form))


def _power(exponent: torch.Tensor) -> torch.Tensor:
    return twin.power_of_two(exponent).to(torch.float32)
