"""Stored weights and optimiser state that occupy their bits in memory between steps.

Between two steps a tensor on a grid is its packed codes and its scale, and no float copy of it exists. What
reads it, any torch function at all, gets its floats first: the tensor changes its class, as torch's own
uninitialised parameters do, and back again when its codes are unpacked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Block, Format
from bitwright.optim import stored_tensors
from bitwright.optim.pieces import PIECE
from bitwright.training.stored_codes import codes_of, pack_bits, unpack_bits, values_of

_ATTRIBUTE = "bitwright_codes"
_HANDLE = "bitwright_stored_as_codes"


@dataclass(frozen=True)
class Packed:
    """A tensor on a grid as the bits of its codes.

    Args:
        format: of the codes.
        bits: uint8 [ceil(numbers * bits of a code / 8)].
        scale: the worth of a number 1, or the codes of a block format's scales; None: the format's own.
        shape, stride, dtype: of the tensor.
    """

    format: Format
    bits: torch.Tensor
    scale: torch.Tensor | None
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: torch.Tensor, form: Format, scale: torch.Tensor | None) -> Packed | None:
        """None where the tensor's values are not on the grid, or its codes would take no less memory."""
        if not tensor.numel() or form.bits >= 8 * tensor.element_size():
            return None
        flat = tensor.detach().cpu().contiguous().view(-1)
        bits = torch.empty(-(-flat.numel() * form.bits // 8), dtype=torch.uint8, device="cpu")
        scale = _one(scale)
        for start, shape in _pieces(form, scale, tensor.shape):
            found = codes_of(flat[start : start + shape.numel()].view(shape), form, scale)
            if found is None:
                return None
            codes, kept = found
            packed = pack_bits(form, codes)
            bits[start * form.bits // 8 :][: packed.numel()] = packed
        kept = None if kept is None else kept.to(tensor.device)
        return Packed(form, bits.to(tensor.device), kept, tensor.shape, tensor.stride(), tensor.dtype)

    def values(self) -> torch.Tensor:
        """The tensor again, bit for bit."""
        bits, scale = self.bits.cpu(), None if self.scale is None else self.scale.cpu()
        flat = torch.empty(self.shape.numel(), dtype=self.dtype, device="cpu")
        for start, shape in _pieces(self.format, scale, self.shape):
            packed = bits[start * self.format.bits // 8 :][: -(-shape.numel() * self.format.bits // 8)]
            decoded = values_of(self.format, unpack_bits(self.format, packed, shape), scale)
            flat[start : start + shape.numel()] = decoded.view(-1)
        result = flat.view(self.shape)
        if result.stride() != self.stride:
            result = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="cpu").copy_(
                result
            )
        return result.to(self.bits.device)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scale."""
        return sum(t.untyped_storage().nbytes() for t in (self.bits, self.scale) if t is not None)


def _one(scale: torch.Tensor | None) -> torch.Tensor | None:
    """A scale of one number, of whatever shape, without axes."""
    return scale.reshape(()) if scale is not None and scale.numel() == 1 else scale


def _pieces(form: Format, scale: torch.Tensor | None, shape: torch.Size) -> Iterator[tuple[int, torch.Size]]:
    """(first number, shape) of the parts that are coded one by one, in the cache; one where scales vary."""
    if isinstance(form, Block) or (scale is not None and scale.dim()):
        yield 0, shape
        return
    numbers = shape.numel()
    for start in range(0, numbers, PIECE):  # a multiple of 8, so whole bytes
        yield start, torch.Size([min(PIECE, numbers - start)])


def _floats_first(
    _: type, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """`__torch_function__`: unpack what the function reads, but for what it only asks about a tensor."""
    kwargs = kwargs or {}
    if function in _ABOUT:
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)
    for tensor in _packed_among((*args, *kwargs.values())):
        _unpack(tensor)
    return function(*args, **kwargs)


_ABOUT = {
    *(
        getattr(torch.Tensor, name).__get__
        for name in (
            "device",
            "dtype",
            "grad",
            "grad_fn",
            "is_leaf",
            "layout",
            "ndim",
            "requires_grad",
            "shape",
        )
    ),
    getattr(torch.Tensor, "grad").__set__,  # noqa: B009 - a descriptor, which mypy takes for its value
    *(
        getattr(torch.Tensor, name)
        for name in ("dim", "element_size", "is_floating_point", "numel", "size", "untyped_storage")
    ),
}
"""What can be asked without reading a number; anything else may unpack, which is right, too."""


def _packed_among(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, PackedParameter | PackedTensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _packed_among(value)
        elif isinstance(value, dict):
            yield from _packed_among(value.values())


def _copied(tensor: Any, memo: dict[int, Any]) -> Any:
    _unpack(tensor)
    return copy.deepcopy(tensor, memo)


def _pickled(tensor: Any, protocol: Any) -> Any:
    _unpack(tensor)
    return tensor.__reduce_ex__(protocol)


class PackedParameter(nn.Parameter):
    """A parameter whose numbers lie in its codes."""

    __torch_function__: Any = classmethod(_floats_first)
    __deepcopy__ = _copied
    __reduce_ex__ = _pickled


class PackedTensor(torch.Tensor):
    """A tensor of optimiser state whose numbers lie in its codes."""

    __torch_function__: Any = classmethod(_floats_first)
    __deepcopy__ = _copied
    __reduce_ex__ = _pickled


_PACKED: dict[type[torch.Tensor], type[PackedParameter] | type[PackedTensor]] = {
    nn.Parameter: PackedParameter,
    torch.Tensor: PackedTensor,
}


def _pack(tensor: torch.Tensor, form: Format, scale: torch.Tensor | None, nothing: torch.Tensor) -> None:
    """Let a tensor's floats go, where its codes can stand for them."""
    kind = _PACKED.get(type(tensor))
    packed = Packed.of(tensor, form, scale) if kind is not None else None
    if kind is None or packed is None:
        return
    tensor.data = nothing.expand(tensor.shape)
    tensor.__dict__[_ATTRIBUTE] = packed
    tensor.__class__ = kind


def _unpack(tensor: torch.Tensor) -> None:
    if isinstance(tensor, PackedParameter | PackedTensor):
        packed = tensor.__dict__.pop(_ATTRIBUTE, None)
        if packed is None:
            raise InvalidValueError(
                "codes are unpacked before a compiled forward pass",
                got="a graph that reads a tensor which is codes",
                fix="call unpack() of the handle that store_as_codes returned",
            )
        plain = nn.Parameter if isinstance(tensor, PackedParameter) else torch.Tensor
        tensor.__class__ = plain  # type: ignore[assignment]
        with torch.inference_mode(False), torch.no_grad():  # whoever reads, the floats are trained later
            tensor.data = packed.values()


class StoredAsCodes:
    """The handle of `store_as_codes`; as a context manager it is undone at the end.

    Args:
        optimizer: one with formats.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: self.unpack()),
            optimizer.register_step_post_hook(lambda *_: self.pack()),
            optimizer.register_state_dict_pre_hook(lambda *_: self.unpack()),
        )
        self.pack()

    @torch.inference_mode(False)
    @torch.no_grad()
    def pack(self) -> None:
        """Let the floats go, without waiting for the end of the next step; not in front of a backward pass.

        What is no longer on its grid, because the program wrote to it, stays in floats until that step.
        """
        nothing: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}
        for stored in stored_tensors(self.optimizer):
            tensor: torch.Tensor = stored.parameter
            if stored.state is not None:
                tensor = self.optimizer.state[stored.parameter][stored.state]
            key = tensor.dtype, tensor.device
            if key not in nothing:
                nothing[key] = torch.full((), torch.nan, dtype=key[0], device=key[1])
            _pack(tensor, stored.format, stored.scale, nothing[key])

    def unpack(self) -> None:
        """Put floats in the places of all codes, until the end of the next step."""
        for tensor in self.tensors():
            _unpack(tensor)

    def tensors(self) -> list[torch.Tensor]:
        """All that the optimiser keeps between steps: its parameters, and its state of each."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        states = [value for p in parameters for value in self.optimizer.state.get(p, {}).values()]
        return parameters + [value for value in states if isinstance(value, torch.Tensor)]

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes now: codes and scales, and floats where there are floats."""
        found = [(t, t.__dict__.get(_ATTRIBUTE)) for t in self.tensors()]
        return sum(t.untyped_storage().nbytes() if codes is None else codes.nbytes for t, codes in found)

    @property
    def float_nbytes(self) -> int:
        """Bytes that all of it takes without codes."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def close(self) -> None:
        """Floats again, for good."""
        for hook in self._hooks:
            hook.remove()
        self.unpack()
        self.optimizer.__dict__.pop(_HANDLE, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        tensors = self.tensors()
        codes = sum(_ATTRIBUTE in t.__dict__ for t in tensors)
        sizes = f"{self.nbytes:,} bytes, {self.float_nbytes:,} in floats"
        return f"{codes} of {len(tensors)} tensors in codes: {sizes}"


def store_as_codes(optimizer: torch.optim.Optimizer) -> StoredAsCodes:
    """Keep what `optimizer` stores as packed codes between steps: its parameters, and its state of them.

    Every tensor whose recipe gives it a format (`primal`, `state`) then occupies ceil(numbers * bits / 8)
    bytes and its scale, from now on and after each `optimizer.step()`. Whatever reads one, such as a forward
    pass, the next step, `state_dict`, `lower` or a copy of the model, finds its floats, the same bits as
    without codes; they stay until the end of the next step, or `pack()`. What has no format stays in floats,
    and so do gradients until `zero_grad()`.

    Call `unpack()` before a compiled forward pass: what is compiled cannot unpack.

    Args:
        optimizer: `recipe.optimizer(model)`, or one that `wrap` gave formats.

    Returns:
        A handle with `nbytes`, `pack()`, `unpack()` and `close()`; as a context manager it closes at the end.

    Raises:
        InvalidValueError: no stored weight has a format; or the optimiser keeps codes already.
    """
    if _HANDLE in optimizer.__dict__:
        raise InvalidValueError(
            "an optimiser keeps its tensors as codes once",
            got=f"a {type(optimizer).__name__} that does",
            fix="close() the handle that the first call returned",
        )
    if all(stored.state is not None for stored in stored_tensors(optimizer)):
        raise InvalidValueError(
            "stored weights have a format before they can be stored as codes",
            got=f"a {type(optimizer).__name__} with no primal in a format",
            fix='give the recipe one, as in bitwright.recipe("qnn", primal="fixed12.11"), and take '
            "recipe.optimizer(model) or bitwright.wrap(optimizer, model, recipe)",
        )
    handle = optimizer.__dict__[_HANDLE] = StoredAsCodes(optimizer)
    return handle
