"""Registering torch operators, in one place: the only module of this room that knows torch.

`define`, `impl` and `register_fake` cost a third of `custom_op` at each call. An operator is functional (or
names what it writes), has no autograd of its own (an `autograd.Function` around it has), and one Python
implementation serves every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DEVICES = ("CPU", "CUDA")
_library: Any = torch.library.Library("bitwright", "DEF")  # type: ignore[no-untyped-call]


def register(schema: str, run: Callable[..., Any], shape: Callable[..., Any]) -> None:
    """Make `torch.ops.bitwright.<name>`.

    Args:
        schema: "name(Tensor x, ...) -> Tensor".
        run: computes the result.
        shape: empty tensors of the result's shapes and types, for tracing.
    """
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    name = schema.partition("(")[0]
    for device in DEVICES:
        _library.impl(name, run, device)
    torch.library.register_fake(f"bitwright::{name}", shape, lib=_library)
