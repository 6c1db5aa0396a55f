"""torch's own casts as a judge: float16, bfloat16 and its 8-bit floats.

What overflows becomes infinity or NaN, as under our overflow="infinite". What differs, with the reason:

- float8_e4m3fn saturates in torch 2.13, infinities too, as ours does under "saturate"; older ones give NaN.
- float8_e8m0fnu ignores the sign: torch takes the exponent of |x|; ours has nothing below 2^-127 for what is
  negative. And float32 subnormals: ours are rounded to the nearest power of two; torch goes up to 2^-126 from
  everything above 2^-127.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles_draws import NONE, disagreements, drawn

from bitwright.formats import parse

NAMES = [
    "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_code_decodes_alike(name):
    form, theirs = parse(name), getattr(torch, name)
    codes = torch.arange(1 << form.bits)
    raw = codes.to(torch.int32 if form.bits > 8 else torch.uint8)
    raw = raw.numpy().astype(np.uint16).view(np.int16) if form.bits > 8 else raw.numpy()
    decoded = torch.from_numpy(raw).view(theirs).float()
    assert disagreements(codes, form.decode(codes), decoded) == NONE


@pytest.mark.parametrize("name", NAMES)
def test_a_million_floats_convert_alike(name):
    form, theirs = parse(name), getattr(torch, name)
    x = torch.from_numpy(drawn(form, seed=1))
    saturates = bool(torch.tensor(1e9).to(theirs).float().isfinite()) and name == "float8_e4m3fn"
    ours = form.quantize(x, overflow="saturate" if saturates else "infinite")
    theirs = x.to(theirs).float()
    if name == "float8_e8m0fnu":
        low = (x.abs() > 2.0**-127) & (x.abs() < 1.5 * 2.0**-127)
        assert (theirs[low] == 2.0**-126).all()
        assert (ours[low] == 2.0**-127).all()
        assert (ours[x < 0] == 2.0**-127).all()
        ours = form.quantize(x.abs(), overflow="infinite")
        x, ours, theirs = x[~low], ours[~low], theirs[~low]
    assert disagreements(x, ours, theirs) == NONE
