"""Integer batch norm (FxpNet, section 4): sums, centring, scaling and running statistics in integers.

Forward, with s the integers of the layer in front (value = s * unit) and n of them in a channel:

    mu = round(S1 / n);  c = s - mu;  V = round(2^16 (sum of c^2) / n);  R 2^-q = 1 / sigma, R of 16 bits
    xhat = clip(round(c R 2^(f - q))) 2^-f         a format of at most 16 bits, fixed12.8
    y = gamma xhat + beta

Backward, with g the integers of the incoming gradient's quantiser (value = g * step):

    k1 = round(2^16 mean(g));  k2 = round(2^16 mean(g xhat))
    ds = (gamma / sigma) (g - k1 2^-16 - xhat k2 2^-16)       gamma / sigma to 16 bits
    dgamma = sum(g xhat);  dbeta = sum(g)

Only 1 / sigma and gamma / sigma, one number a channel each, are not integer arithmetic. Integers are held in
float64, a few images at a time; every one is below 2^53, so all of it is exact until y and ds are stored
in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bitwright.kernels.registration import register

FRACTION = 16
"""Bits behind the point of running statistics and of means of gradients."""
MANTISSA = 16
"""Bits of the reciprocals."""
PIECE = 1 << 16
"""Elements held in float64 at a time: they stay in the cache."""


def normalise(
    x: torch.Tensor,
    unit: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    bits: int,
    fraction: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One training pass.

    Args:
        x: float32 [N, C, ...], multiples of unit.
        unit: float64 [1] or [C], the worth of an integer.
        gamma, beta: [C].
        eps: added to the variance of the values; at least 2^-16 of an integer squared.
        bits, fraction: of xhat.

    Returns:
        y float32, the codes of xhat int16, mu int64 [C], V int64 [C], 1 / sigma float64 [C] (in integers).
    """
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    result = torch.ops.bitwright.integer_norm(x, unit, gamma, beta, eps, bits, fraction)
    return result


def differentiate(
    grad: torch.Tensor, codes: torch.Tensor, gain: torch.Tensor, fraction: int, exact: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(gradient of x, sum(g xhat), sum(g)) of one training pass; sums float64 [C].

    Args:
        grad: g, float32 [N, C, ...]: integers where `exact`, else any numbers.
        codes: of xhat, int16.
        gain: gamma / sigma and what a g is worth in gradients of x, float64 [C].
        fraction: of xhat.
        exact: whether the means are rounded to integers.
    """
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    result = torch.ops.bitwright.integer_norm_backward(grad, codes, gain, fraction, exact)
    return result


def reciprocal(variance: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """1 / sigma, R 2^-q with R of 16 bits, float64, from V and eps in 2^-16."""
    return to_mantissa(1 / torch.sqrt((variance + eps).double() * 2.0**-FRACTION))


def epsilon(eps: float, unit: torch.Tensor) -> torch.Tensor:
    """eps of values as an integer beside V: at least 1."""
    return (eps * 2.0**FRACTION / unit.double().square()).round().clamp(1, 2.0**40).to(torch.int64)


def to_mantissa(x: torch.Tensor) -> torch.Tensor:
    """x to 16 significant bits, nearest even."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**MANTISSA).round(), exponent - MANTISSA)


def divide(a: torch.Tensor, n: int) -> torch.Tensor:
    """round(a / n) of int64, a half going up."""
    return torch.div(2 * a + n, 2 * n, rounding_mode="floor")


def shifted_quotient(a: torch.Tensor, n: int) -> torch.Tensor:
    """round(2^16 a / n) of int64 a >= 0, without forming 2^16 a."""
    whole = torch.div(a, n, rounding_mode="floor")
    return (whole << FRACTION) + divide(a - whole * n << FRACTION, n)


# --- one pass ----------------------------------------------------------------------------------------------


def _forward(
    x: torch.Tensor,
    unit: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    bits: int,
    fraction: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    axes, shape, n = _axes(x)
    whole = bool((unit == 1).all())
    held = _Held(x)
    first, second = (torch.zeros(x.shape[1], dtype=torch.float64, device=x.device) for _ in range(2))
    for (piece,) in _pieces(x):
        s, t = held.integers(piece, None if whole else unit.view(shape)), held.other(piece)
        first += s.sum(axes)
        second += torch.mul(s, s, out=t).sum(axes)
    total, squares = first.to(torch.int64), second.to(torch.int64)
    mu = divide(total, n)
    variance = shifted_quotient(squares - mu * (2 * total - n * mu), n)
    inverse = reciprocal(variance, epsilon(eps, unit))
    factor, centre = (inverse * 2.0**fraction).view(shape), mu.double().view(shape)
    slope, intercept = (gamma.double() * 2.0**-fraction).view(shape), beta.double().view(shape)
    y, codes = torch.empty_like(x), torch.empty_like(x, dtype=torch.int16)
    high = 2.0 ** (bits - 1) - 1
    for piece, y_piece, code_piece in _pieces(x, y, codes):
        s = held.integers(piece, None if whole else unit.view(shape))
        s.sub_(centre).mul_(factor).round_().clamp_(-high - 1, high)
        code_piece.copy_(s)
        y_piece.copy_(s.mul_(slope).add_(intercept))
    return y, codes, mu, variance, inverse


def _backward(
    grad: torch.Tensor, codes: torch.Tensor, gain: torch.Tensor, fraction: int, exact: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axes, shape, n = _axes(grad)
    held = _Held(grad)
    total, crossed = (torch.zeros(grad.shape[1], dtype=torch.float64, device=grad.device) for _ in range(2))
    for piece, code_piece in _pieces(grad, codes):
        g, t = held.integers(piece, None), held.other(piece)
        total += g.sum(axes)
        crossed += t.copy_(code_piece).mul_(g).sum(axes)
    # crossed counts in 2^-fraction
    if exact:
        mean = divide(total.to(torch.int64) << FRACTION, n).double() * 2.0**-FRACTION
        slope = divide(crossed.to(torch.int64) << FRACTION - fraction, n).double() * 2.0**-FRACTION
    else:
        mean, slope = total / n, crossed / n * 2.0**-fraction
    centre, slope, factor = mean.view(shape), (slope * 2.0**-fraction).view(shape), gain.view(shape)
    dx = torch.empty_like(grad)
    for piece, code_piece, dx_piece in _pieces(grad, codes, dx):
        g, t = held.integers(piece, None), held.other(piece)
        g.sub_(centre).sub_(t.copy_(code_piece).mul_(slope))
        dx_piece.copy_(g.mul_(factor))
    return dx, crossed * 2.0**-fraction, total


class _Held:
    """Two float64 tensors of a piece's size."""

    def __init__(self, x: torch.Tensor) -> None:
        most = max((p.numel() for (p,) in _pieces(x)), default=0)
        self._memory = torch.empty(2, most, dtype=torch.float64, device=x.device)

    def integers(self, piece: torch.Tensor, unit: torch.Tensor | None) -> torch.Tensor:
        """The integers of a piece; None: it holds integers."""
        s = self._memory[0, : piece.numel()].view(piece.shape).copy_(piece)
        return s if unit is None else s.div_(unit).round_()

    def other(self, piece: torch.Tensor) -> torch.Tensor:
        """The other tensor, in the shape of a piece."""
        return self._memory[1, : piece.numel()].view(piece.shape)


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same examples of each tensor, a few at a time."""
    x = tensors[0]
    count = max(1, PIECE // max(1, x[0].numel())) if x.is_cpu and len(x) else max(1, len(x))
    yield from zip(*(torch.split(t, count) for t in tensors), strict=True)


def _axes(x: torch.Tensor) -> tuple[list[int], list[int], int]:
    """(the axes that a channel sums over, the shape in which [C] broadcasts, elements of a channel)."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    return axes, [1, -1, *([1] * (x.dim() - 2))], x.numel() // max(1, x.shape[1])


def _fake(x: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    channels = x.shape[1]
    return (
        torch.empty_like(x),
        torch.empty_like(x, dtype=torch.int16),
        x.new_empty(channels, dtype=torch.int64),
        x.new_empty(channels, dtype=torch.int64),
        x.new_empty(channels, dtype=torch.float64),
    )


def _fake_backward(grad: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    sums = grad.new_empty(grad.shape[1], dtype=torch.float64)
    return torch.empty_like(grad), sums, torch.empty_like(sums)


register(
    "integer_norm(Tensor x, Tensor unit, Tensor gamma, Tensor beta, float eps, int bits, int fraction) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
)
register(
    "integer_norm_backward(Tensor grad, Tensor codes, Tensor gain, int fraction, bool exact) "
    "-> (Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
