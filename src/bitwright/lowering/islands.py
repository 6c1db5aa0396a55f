"""Float islands: modules that stay in float between integer networks, and the chain of all of them.

    integers -> float32((x M + B) 2^-s) -> module -> the quantiser behind it -> integers

A chain exists in memory: code cannot be saved in a model file. Its integer networks can, each for itself and
with a note of what it is part of; `Chain` joins them and the functions again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from bitwright.errors import InvalidTypeError, InvalidValueError, unknown_name
from bitwright.integer import Network, Operation

CHAIN_NOTE = "float_islands"
"""The entry of a network's meta that says which part of a chain it is."""


@dataclass(frozen=True)
class FloatIsland:
    """A function of float32 tensors between two networks (or at an end).

    Args:
        name: of the module that it was.
        function: float32 [N, ...] -> float32 [N, ...].
        channels_last: it takes [N, ..., C] of a network that gives [N, C, ...].
    """

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    channels_last: bool = False

    @staticmethod
    def of(name: str, modules: Sequence[nn.Module], channels_last: bool) -> FloatIsland:
        """Copies of modules as they are now, one behind the other, in eval mode on the CPU."""
        function = nn.Sequential(*(copy.deepcopy(module) for module in modules))
        return FloatIsland(name, function.eval().cpu().requires_grad_(False), channels_last)

    @torch.no_grad()
    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The function, of a tensor in the model's order of axes."""
        return self.function(x)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of what the network in front gives, for the one behind."""
        tensor = torch.from_numpy(x)
        if self.channels_last:
            tensor = tensor.movedim(1, -1).contiguous()
        return self.values(tensor).contiguous().numpy()

    @property
    def words(self) -> str:
        """What the networks beside it note."""
        return f"float island {self.name}" + (", channels last" if self.channels_last else "")

    def __repr__(self) -> str:
        modules = self.function if isinstance(self.function, nn.Sequential) else [self.function]
        what = ", ".join(type(m).__name__ if isinstance(m, nn.Module) else repr(m) for m in modules)
        return f"float island {self.name} ({what})"


class Chain:
    """Integer networks and float islands, each taking what the one in front gives.

    Args:
        parts: in order; at least one is a network.
        meta: JSON values that travel with it.

    Raises:
        InvalidValueError: networks that were saved apart come in another order than they had.
    """

    def __init__(self, parts: Sequence[Network | FloatIsland], meta: Mapping[str, Any] | None = None) -> None:
        self.parts, self.meta = tuple(parts), dict(meta or {})
        for part in self.parts:
            if not isinstance(part, Network | FloatIsland):
                raise InvalidTypeError("a part is a Network or a FloatIsland", got=type(part).__name__)
        notes = [note for note in chain_notes(self.parts) if note is not None]
        found = [network.meta.get(CHAIN_NOTE) for network in self.networks]
        if not found or any(a not in (b, None) for a, b in zip(found, notes, strict=True)):
            raise InvalidValueError(
                "a chain has its networks and float islands in their order, and at least one network",
                got=f"{notes[0]['chain'] if notes else 'no network'}, of networks that say {found}",
            )

    @property
    def networks(self) -> tuple[Network, ...]:
        """The integer ones, in order."""
        return tuple(part for part in self.parts if isinstance(part, Network))

    @property
    def islands(self) -> tuple[FloatIsland, ...]:
        """The float ones, in order."""
        return tuple(part for part in self.parts if isinstance(part, FloatIsland))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Of all networks."""
        return tuple(operation for network in self.networks for operation in network.operations)

    def operation(self, name: str) -> Operation:
        """The operation of that name, in any network."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        raise unknown_name("operation", name, [o.name for o in self.operations])

    def __call__(self, x: Any, **how: Any) -> np.ndarray:
        """Run a batch; `how` as a network takes it: backend, threads, isa."""
        for part in self.parts:
            x = part(x, **how) if isinstance(part, Network) else part(np.asarray(x))
        return np.asarray(x)

    def trace(self, x: Any, **how: Any) -> dict[str, np.ndarray]:
        """Like a call, but returns what the backends make, by operation, and the islands, by name."""
        tensors: dict[str, np.ndarray] = {}
        for part in self.parts:
            if isinstance(part, Network):
                tensors |= part.trace(x, **how)
                x = tensors[part.operations[-1].name]
            else:
                tensors[part.name] = x = part(np.asarray(x))
        return tensors

    @property
    def last(self) -> str:
        """The name, in a trace, of what a call returns."""
        part = self.parts[-1]
        return part.name if isinstance(part, FloatIsland) else part.operations[-1].name

    def backend(self, name: str | None = None) -> str:
        """The backend that would run: the engine where every network can."""
        found = [network.backend(name) for network in self.networks]
        return "interpreter" if "interpreter" in found else "engine"

    def explain(self, isa: str | None = None) -> list[dict[str, Any]]:
        """The engines' plans, and a row for each island."""
        rows: list[dict[str, Any]] = []
        for part in self.parts:
            if isinstance(part, Network):
                rows += part.engine(isa).explain()
            else:
                row = {"operation": part.name, "kernel": "float island", "layout": "float32", "macs": 0}
                rows.append({**row, "reason": repr(part)})
        return rows

    def save(self, path: str | Path) -> NoReturn:
        """No file holds code: raises, and says what there is to do."""
        raise InvalidValueError(
            "a model file holds integer operations alone",
            got=", ".join(map(repr, self.islands)),
            where=path,
            fix="save each of chain.networks, and join them again: "
            "Chain([load(a), FloatIsland(name, function), load(b)])",
        )

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"


def chain_notes(parts: Sequence[object]) -> list[dict[str, Any] | None]:
    """For each part that is a network, what it notes of the chain: all parts in words, and which it is."""
    islands = [part if isinstance(part, FloatIsland) else None for part in parts]
    words = ["network" if i is None else i.words for i in islands]
    return [{"chain": words, "this": n} if island is None else None for n, island in enumerate(islands)]
