"""The floats on which foreign implementations are asked, and how the answers are compared."""

from __future__ import annotations

import numpy as np
from formats_definition import grid_of

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38])


def drawn(form, count=1_000_000, seed=0):
    """`count` float32: half of them any bits (all exponents, infinities, NaN), half about numbers and ties.

    "About" is the number or tie itself or one of the two float32 on either side of it, of either sign.
    """
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 1 << 32, count // 2, dtype=np.uint32)
    grid = grid_of(form)
    with np.errstate(over="ignore"):
        exact = np.concatenate([grid.magnitudes, grid.middles, grid.magnitudes[-1:] * 2]).astype(np.float32)
    about = generator.choice(exact[np.isfinite(exact)], count - count // 2).view(np.uint32)
    about = about + generator.integers(-2, 3, len(about)).clip(-about.astype(np.int64), None)
    about = about.astype(np.uint32) | generator.integers(0, 2, len(about), dtype=np.uint32) << 31
    x = np.concatenate([bits, about]).view(np.float32)
    x[:: count // len(SPECIAL)][: len(SPECIAL)] = SPECIAL
    return x


def disagreements(x, ours, theirs):
    """Where two float32 results differ (NaN are one, zeros have a sign), shown for messages."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    with np.errstate(invalid="ignore"):
        alike = np.isnan(ours) & np.isnan(theirs) | (ours == theirs) & (
            np.signbit(ours) == np.signbit(theirs)
        )
    at = np.flatnonzero(~alike)
    return len(at), [(float(x[i]).hex(), float(ours[i]), float(theirs[i])) for i in at[:6]]


NONE = (0, [])
