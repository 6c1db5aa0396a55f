"""Windows that slide over the axes behind the channel: one axis (C, L) or two (C, H, W).

A kernel, a stride and a dilation have one number for each axis. A padding has one number for each axis
(the same on both sides) or two: (left, right), or (top, bottom, left, right).
"""

from __future__ import annotations

from bitwright.errors import InvalidValueError

MAX_WINDOW = 1 << 16
"""Of kernels, strides, paddings and dilations."""

Pads = tuple[tuple[int, int], ...]


def pads_of(padding: tuple[int, ...], rank: int) -> Pads:
    """((before, after), ...) for each of `rank` axes."""
    if len(padding) == rank:
        return tuple((p, p) for p in padding)
    if len(padding) == 2 * rank:
        return tuple(zip(padding[::2], padding[1::2], strict=True))
    raise InvalidValueError(f"a padding of {rank} axes has {rank} or {2 * rank} numbers", got=padding)


def check_window(rank: int, **numbers: tuple[int, ...]) -> None:
    """Raise where a kernel, stride or dilation is not `rank` positive numbers."""
    for name, values in numbers.items():
        if len(values) != rank:
            raise InvalidValueError(f"a {name} over {rank} axes has {rank} numbers", got=values)
        if min(values) < 1 or max(values) > MAX_WINDOW:
            raise InvalidValueError("kernels and strides are positive, at most 2^16", got=f"{name} {values}")


def check_pads(pads: Pads) -> None:
    """Raise where a padding is negative or huge."""
    if any(not 0 <= p <= MAX_WINDOW for pair in pads for p in pair):
        raise InvalidValueError(
            "strides are positive, paddings not negative, both at most 2^16", got=f"padding {pads}"
        )


def window_sizes(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """How many windows fit along each axis of a padded tensor; raises where none does."""
    check_window(len(size), kernel=kernel, stride=stride, dilation=dilation)
    check_pads(pads)
    sizes = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, pads, dilation, strict=True)
    )
    if min(sizes) < 1:
        raise InvalidValueError("a window fits into its padded input", got=f"kernel {kernel} over {size}")
    return sizes
