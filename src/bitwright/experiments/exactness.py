"""The same codes everywhere: a model and its integer network, compared on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bitwright.data import Dataset
from bitwright.experiments.compiled import find_compiler, verify_compiled
from bitwright.integer import Network
from bitwright.kernels import available_isas, default_isa
from bitwright.lowering import Verification, verify
from bitwright.training import batches


@dataclass(frozen=True)
class Backend:
    """Something that runs integer networks, and how its codes are compared with the model's.

    Args:
        name: `engine avx512`, `interpreter`...
        check: (model, network, images, progress) -> what was compared.
        is_fast: whether it compares the whole test set.
    """

    name: str
    check: Callable[[nn.Module, Network, Dataset, Callable[[int], None] | None], Verification]
    is_fast: bool = False

    def images(self, test: Dataset, slow_examples: int) -> Dataset:
        """What this backend compares: all of a test set, or the first so many images."""
        return test if self.is_fast else test.subset(min(slow_examples, len(test)))


def backends(network: Network, *, compiled: bool = False) -> tuple[Backend, ...]:
    """What can run this network here, the fastest first.

    Args:
        compiled: also as exported C, where there is a compiler.
    """
    found = [Backend("interpreter", _verify("interpreter", None))]
    if network.engine_problem is None:
        best = default_isa()
        isas = [best, *(isa for isa in reversed(available_isas()) if isa != best)]
        found = [*(Backend(f"engine {isa}", _verify("engine", isa), isa == best) for isa in isas), *found]
    if compiled and find_compiler() is not None:
        found.append(Backend("c", verify_compiled))
    return tuple(found)


def left_out(network: Network) -> dict[str, str]:
    """The backends that cannot run this network here, and why."""
    reasons = {}
    if network.engine_problem is not None:
        reasons["engine"] = str(network.engine_problem)
    if find_compiler() is None:
        reasons["c"] = "no C compiler"
    return reasons


def _verify(backend: str, isa: str | None) -> Callable[..., Verification]:
    def check(
        model: nn.Module, network: Network, images: Dataset, progress: Callable[[int], None] | None
    ) -> Verification:
        return verify(model, network, batches(images), backend=backend, isa=isa, progress=progress)

    return check


def verify_everywhere(
    model: nn.Module,
    network: Network,
    test: Dataset,
    slow_examples: int,
    progress: Callable[[int], None] | None = None,
    chosen: Sequence[Backend] | None = None,
) -> list[Verification]:
    """One comparison a backend: all of `test` on the fastest, the first so many images on the others.

    Args:
        model: quantised, on the CPU.
        network: lowered from it.
        test: images to compare on.
        slow_examples: how many of them the slower backends take.
        progress: called with the number of images of each batch.
        chosen: the backends; None takes all of them, compiled C too.
    """
    return [
        backend.check(model, network, backend.images(test, slow_examples), progress)
        for backend in (backends(network, compiled=True) if chosen is None else chosen)
    ]


def counts(checks: Sequence[Verification]) -> list[dict[str, Any]]:
    """What was compared, as JSON values."""
    return [
        {
            "backend": check.backend,
            "examples": check.examples,
            "tensors": check.tensors,
            "compared": check.compared,
            "differing": check.differing,
            "first": None if check.first is None else str(check.first),
        }
        for check in checks
    ]
