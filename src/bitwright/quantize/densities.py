"""Optimal uniform quantisers of four densities: steps and SQNR (Lin et al., ICML 2016, section 1).

For a density of unit variance, symmetric about 0, and levels c_i, the mean squared error

    D(step) = integral (x - Q(x))^2 p(x) dx,        SQNR = 10 log10(1 / D) dB

is minimised over the step. The integral over each half line is taken in u = sqrt(x), where also the gamma
density is smooth, by Gauss-Legendre quadrature in panels that end at the decision thresholds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidValueError, unknown_name

MAX_BITS = 16
_PANELS = 64

Array = npt.NDArray[np.float64]


class Density(enum.Enum):
    """A symmetric density of mean 0 and variance 1.

    | gaussian  | exp(-x^2 / 2) / sqrt(2 pi)                               |
    | laplacian | exp(-sqrt2 |x|) / sqrt2                                  |
    | gamma     | 3^(1/4) / sqrt(8 pi |x|) exp(-sqrt3 |x| / 2)             |
    | uniform   | 1 / (2 sqrt3) on [-sqrt3, sqrt3]                         |

    The paper normalises the uniform density to [-1, 1] instead: its steps are these over sqrt3.
    """

    GAUSSIAN = "gaussian"
    LAPLACIAN = "laplacian"
    GAMMA = "gamma"
    UNIFORM = "uniform"

    @staticmethod
    def of(value: Density | str) -> Density:
        """The density of that name; an unknown name lists the valid ones."""
        if isinstance(value, Density):
            return value
        try:
            return Density(value)
        except ValueError:
            raise unknown_name("density", value, [d.value for d in Density]) from None

    @property
    def _cutoff(self) -> float:
        """Where the tail ends; beyond it lies less than 1e-30 of the power."""
        return {"gaussian": 13.0, "laplacian": 60.0, "gamma": 90.0, "uniform": math.sqrt(3)}[self.value]

    def _of_root(self, u: Array) -> Array:
        """The density of u = sqrt|x|: 4 u p(u^2)."""
        densities: dict[str, Callable[[], Array]] = {
            "gaussian": lambda: 4 * u * np.exp(-(u**4) / 2) / math.sqrt(2 * math.pi),
            "laplacian": lambda: 4 * u * np.exp(-math.sqrt(2) * u**2) / math.sqrt(2),
            "gamma": lambda: 4 * 3**0.25 / math.sqrt(8 * math.pi) * np.exp(-math.sqrt(3) / 2 * u**2),
            "uniform": lambda: 4 * u / (2 * math.sqrt(3)),
        }
        return densities[self.value]()


@dataclass(frozen=True)
class Optimum:
    """The best uniform quantiser: its step, in standard deviations, and its SQNR in dB (of power)."""

    step: float
    sqnr_db: float


@cache
def mid_rise(density: Density, bits: int) -> Optimum:
    """The paper's quantiser: 2^bits levels +-step/2, +-3 step/2, ..., 0 not among them. `bits` 1 to 16."""
    _check_bits(bits)
    top = (1 << bits - 1) - 1
    return _minimum(lambda step: _half_error(density, step, top, 0.5), 1 << bits)


@cache
def grid(density: Density, low: int, high: int) -> Optimum:
    """Our own grid: levels low * step to high * step, with 0 among them.

    Two's complement of b bits is (-2^(b-1), 2^(b-1) - 1); unsigned is (0, 2^b - 1), for one-sided data of
    that density's magnitude, whose root mean square about 0 is 1.
    """
    if not low <= 0 <= high or not 1 <= high - low < 1 << MAX_BITS:
        raise InvalidValueError(f"a grid holds 0 and 2 to 2^{MAX_BITS} levels", got=f"{low} to {high}")
    if low == 0:
        return _minimum(lambda step: _half_error(density, step, high, 0.0), 2 * high)

    def error(step: float) -> float:
        halves = {top: _half_error(density, step, top, 0.0) for top in {high, -low}}
        return (halves[high] + halves[-low]) / 2

    return _minimum(error, high - low + 1)


def mid_rise_table(bits: Iterable[int] = range(1, 9)) -> dict[Density, tuple[Optimum, ...]]:
    """The paper's table: density -> optimum for each number of bits."""
    widths = tuple(bits)
    return {density: tuple(mid_rise(density, b) for b in widths) for density in Density}


def grid_table(bits: Iterable[int] = range(1, 9), signed: bool = True) -> dict[Density, tuple[Optimum, ...]]:
    """The same for two's complement, or for unsigned integers and one-sided data."""
    limits = [(-(1 << b - 1), (1 << b - 1) - 1) if signed else (0, (1 << b) - 1) for b in bits]
    return {density: tuple(grid(density, low, high) for low, high in limits) for density in Density}


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise InvalidValueError(f"bits lie in 1 to {MAX_BITS}", got=bits)


def _half_error(density: Density, step: float, top: int, offset: float) -> float:
    """E[(|x| - Q(|x|))^2] with levels (i + offset) * step, i = 0 .. top."""
    cutoff = density._cutoff
    thresholds = (np.arange(top) + (offset + 0.5)) * step
    ends = np.sqrt(thresholds[thresholds < cutoff])
    ends = np.union1d(ends, np.linspace(0, math.sqrt(cutoff), _PANELS + 1))
    width, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    level = (np.searchsorted(thresholds, middle**2) + offset) * step
    # narrow panels need few nodes: in each the integrand is nearly a polynomial of degree 5
    nodes, weights = np.polynomial.legendre.leggauss(10 if top < 1024 else 4)
    u = middle[:, None] + width[:, None] * nodes
    integrand = (u**2 - level[:, None]) ** 2 * density._of_root(u)
    return float((integrand @ weights) @ width)


def _minimum(error: Callable[[float], float], levels: int) -> Optimum:
    """The minimum over the step: a coarse grid of log steps, then golden sections."""
    grid_steps = np.geomspace(0.5 / levels, 80 / levels, 24)
    best = int(np.argmin([error(float(step)) for step in grid_steps]))
    low, high = (math.log(grid_steps[min(max(best + i, 0), 23)]) for i in (-1, 1))
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = error(math.exp(a)), error(math.exp(b))
    while high - low > 1e-6:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = error(math.exp(a))
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = error(math.exp(b))
    step = math.exp((low + high) / 2)
    return Optimum(step, -10 * math.log10(error(step)))
