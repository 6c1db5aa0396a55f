"""What can be lowered: every problem of a model is found, and named, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx, nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Overflow, Rounding
from bitwright.nn import (
    Accumulators,
    Add,
    ComputeLayer,
    Conv2d,
    Embedding,
    FloatLayer,
    Fold,
    Join,
    ModelGraph,
    Norm,
    Pool,
    Shortcut,
    Source,
    embedding_problem,
    eval_rounding,
    is_argmax,
)

SUPPORTED = (
    "Linear, Conv1d, Conv2d, ConvTranspose2d, Embedding, BatchNorm1d, BatchNorm2d, additions, concatenations "
    "of channels, average and global pools, ReLU, ReLU6, Hardtanh, MaxPool1d, MaxPool2d, adaptive max-pools "
    "to 1, Flatten, Dropout, Identity, Shortcut, transpose(1, 2), ZeroPad2d before a Conv2d, a last argmax"
)
FORMATS = (
    "in the recipe, give weight and activation of these layers a format of integers: "
    "int, fixed, flex, ternary or binary"
)


class NotLowerableError(InvalidValueError):
    """A model that no integer network computes.

    Args:
        problems: every reason, with the layer or operation that it concerns.
        fix: what to change.
    """

    def __init__(self, problems: Iterable[str], fix: str) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        self.fix = fix
        super().__init__(
            "a model to be lowered is a graph of quantised layers", got="; ".join(self.problems), fix=fix
        )


def check(graph: ModelGraph) -> None:
    """Raise where a model cannot become an integer network; the message lists every reason.

    Where layers have no formats that are integers, these alone are listed: most other problems follow.
    """
    problems = [problem for node in graph.graph.nodes if (problem := _format_problem(graph, node))]
    if problems:
        raise NotLowerableError(problems, FORMATS)
    problems = [
        f"{node.target if node.op == 'call_module' else node.name}: {problem}"
        for node, source in graph.sources.items()
        if (problem := _source_problem(graph, source)) is not None
    ]
    problems += [problem for node in graph.graph.nodes if (problem := _node_problem(graph, node)) is not None]
    problems += _cut_problems(graph)
    if len([n for n in graph.graph.nodes if n.op == "placeholder"]) != 1:
        problems.append("the model takes more than one input")
    if problems:
        fix = f"supported: {SUPPORTED}; a module stays in float where float_islands names it"
        raise NotLowerableError(problems, fix)


def _format_problem(graph: ModelGraph, node: fx.Node) -> str | None:
    """Why a layer's operands are no integers."""
    module = graph.module(node)
    if node in graph.floating or str(node.target) in graph.islands:
        return None
    if isinstance(module, ComputeLayer):
        problem = Fold(Accumulators(module), None, None).problem
    else:
        table = type(module) is nn.Embedding and embedding_problem(module) is None
        problem = "the recipe leaves it in float" if table or isinstance(module, FloatLayer) else None
    return None if problem is None else f"{node.target}: {problem}"


def _source_problem(graph: ModelGraph, source: Source) -> str | None:
    """Why a source makes no integers, or its readers cannot take them."""
    module = graph.module(source.node)
    fold = module.fold if isinstance(module, ComputeLayer | Embedding | Add | Pool | Norm) else None
    if fold is not None and fold.problem is not None:
        return fold.problem
    if source.problem is not None:
        return source.problem
    for reader in source.readers:
        quantizer = graph.quantizer(reader)
        if quantizer is None:
            continue
        if not quantizer.format.integral:
            return f"what follows it is {quantizer.format}, whose numbers are no integers"
        if quantizer.spec.overflow is not Overflow.SATURATE:
            return f"its activations overflow by {quantizer.spec.overflow.value}, not by saturation"
        padded = any(isinstance(graph.module(n), Shortcut | nn.ZeroPad2d) for n in reader.path)
        if padded and any(isinstance(q.format, Binary) for q in (quantizer, source.primary) if q is not None):
            return "the zeros of a Shortcut or ZeroPad2d have no code in a binary slot"
    if graph.is_input(source.node) and source.primary is not None:
        rounding = eval_rounding(source.primary)
        if rounding is not Rounding.NEAREST_EVEN:
            places = [str(r.node.target) for r in source.readers if graph.quantizer(r) is source.primary]
            return (
                "the input is rounded to nearest, ties to even; "
                f"got {rounding.value}; at the activation of {places[0]}"
            )
    return None


def _node_problem(graph: ModelGraph, node: fx.Node) -> str | None:
    """Why a node has no operation in an integer network."""
    module, named = graph.module(node), str(node.target) in graph.islands
    ends = node.op in ("placeholder", "output") or is_argmax(node)
    if ends or node in graph.floating or (named and graph.is_island(node)):
        return None
    if node not in graph.live and module is not None:
        in_place = getattr(module, "inplace", False)
        return f"{node.target} works in place, and nothing takes its result" if in_place else None
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        if module.dilation not in (1, (1,), (1, 1)) or module.ceil_mode or module.return_indices:
            return f"{node.target}: max-pools with dilation, ceil_mode or indices are not supported"
    elif isinstance(module, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d):
        if module.output_size not in (1, (1,), (1, 1)) or module.return_indices:
            return f"{node.target}: an adaptive max-pool leaves one position, and no indices"
    elif isinstance(module, nn.Flatten):
        if module.start_dim != 1:
            return f"{node.target}: flatten keeps the batch axis, and none behind it"
    elif isinstance(module, nn.ZeroPad2d):
        if not all(isinstance(graph.module(user), Conv2d) for user in node.users) or min(module.padding) < 0:
            return f"{node.target}: zeros are padded in front of a Conv2d, and nothing is cut off"
    elif not (graph.is_transparent(node) or isinstance(module, ComputeLayer | Embedding | Join | Norm)):
        why = "takes several tensors; a float island takes one" if named else "is not supported"
        return f"{graph.describe(node)} {why}{_advice(module)}"
    return None


def _cut_problems(graph: ModelGraph) -> Iterator[str]:
    """Tensors that go past a float island."""
    place = {node: index for index, node in enumerate(graph.live)}
    for island in graph.live:
        if not graph.is_island(island) or str(island.target) not in graph.islands:
            continue
        for node in graph.live[: place[island]]:
            for user in node.users:
                if place.get(user, 0) > place[island]:
                    yield (
                        f"{island.target}: everything goes through a float island, but "
                        f"{graph.describe(user)} takes what {graph.describe(node)} made in front of it"
                    )


def _advice(module: nn.Module | None) -> str:
    """What there is to do about a module that no integer operation computes."""
    if isinstance(module, nn.EmbeddingBag):
        return ": its integers are an Embedding and a mean over the tokens, x.mean(1)"
    if isinstance(module, FloatLayer | nn.Embedding):
        return f": {embedding_problem(module) or 'the recipe left it in float'}"
    return ""
