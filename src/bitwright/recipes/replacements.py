"""What takes a ReLU's place in front of a binary or ternary slot, which it would make constant."""

from __future__ import annotations

from torch import fx, nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Ternary
from bitwright.nn import TRANSPARENT, describe
from bitwright.quantize import QuantizerSpec
from bitwright.recipes.recipe import Recipe
from bitwright.recipes.report import Row

_REPLACEMENTS = {"Hardtanh": nn.Hardtanh}


def _is_relu(module: nn.Module | None) -> bool:
    """Whether nothing negative leaves the module (ReLU6 is a Hardtanh)."""
    return isinstance(module, nn.ReLU) or (isinstance(module, nn.Hardtanh) and module.min_val >= 0)


def replacements(
    model: nn.Module, graph: fx.Graph | None, specs: dict[str, dict[str, QuantizerSpec]], recipe: Recipe
) -> tuple[dict[nn.Module, nn.Module], list[Row]]:
    """ReLUs in front of binary and ternary slots -> what the recipe names instead; and a row for each.

    Args:
        model: with its functional operations as modules.
        graph: of it; None where it cannot be traced: then every ReLU counts.
        specs: qualified name -> role -> spec.
        recipe: its `replace` names the modules.

    Raises:
        InvalidValueError: the recipe names no replacement.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    signed = {name for name, roles in specs.items() if _signed_slot(roles)}
    if graph is None:
        culprits = {n: "a signed slot" for n, m in modules.items() if _is_relu(m) and signed}
    else:
        culprits = {}
        for node in graph.nodes:
            if node.op != "call_module" or node.target not in signed:
                continue
            for tensor in node.all_input_nodes:
                relu = _relu_before(tensor, modules)
                if relu is not None and relu.op != "call_module":
                    raise _constant_slot(describe(relu, modules), str(node.target), recipe)
                if relu is not None:
                    culprits[str(relu.target)] = str(node.target)
    swaps: dict[nn.Module, nn.Module] = {}
    rows: list[Row] = []
    for name, consumer in culprits.items():
        kind = type(modules[name]).__name__
        instead = recipe.replace.get(kind)
        if instead not in _REPLACEMENTS:
            raise _constant_slot(f"{name} ({kind})", consumer, recipe)
        swaps[modules[name]] = _REPLACEMENTS[instead]()
        rows.append(Row(name, "replaced", f"{kind} -> {instead}", f"in front of {consumer}"))
    return swaps, rows


def _signed_slot(roles: dict[str, QuantizerSpec]) -> bool:
    spec = roles.get("forward.activation", roles.get("activation"))
    return spec is not None and isinstance(spec.format, Binary | Ternary)


def _constant_slot(relu: str, consumer: str, recipe: Recipe) -> InvalidValueError:
    return InvalidValueError(
        "a binary or ternary slot behind a ReLU would be constant",
        got=relu,
        where=f"in front of {consumer}",
        fix=f"use nn.Hardtanh() there, or name a module replacement in recipe {recipe.name}: "
        '[replace] ReLU = "Hardtanh"',
    )


def _relu_before(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The ReLU whose values are these, unmixed, if any."""
    while True:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        functional = getattr(node.target, "__name__", node.target)
        if _is_relu(module) or (module is None and functional in ("relu", "relu_", "relu6")):
            return node
        if not isinstance(module, TRANSPARENT) or isinstance(module, nn.Hardtanh):
            return None
        node = node.all_input_nodes[0]
