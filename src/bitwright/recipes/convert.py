"""quantize_: change a plain torch model in place, as a recipe says; and dequantize_, back again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.nn import (
    OPERANDS,
    TRANSPARENT,
    Accumulator,
    Add,
    ComputeLayer,
    Embedding,
    IntegerNorm,
    Join,
    Norm,
    Pool,
    Slots,
    UntraceableError,
    block_axes,
    check_normalised,
    describe,
    is_rewritten,
    link_folds,
    operands_of,
    restore,
    rewrite,
    share_quantizers,
    tensor_of,
    trace,
    weight_axis,
)
from bitwright.optim import STEP_BUFFER
from bitwright.quantize import QuantizerSpec, quantizers, state_names, tick
from bitwright.recipes.read import recipe as find_recipe
from bitwright.recipes.recipe import OPTIMIZER_ROLES, Recipe
from bitwright.recipes.replacements import replacements
from bitwright.recipes.report import Report, Row, Skipped
from bitwright.recipes.twins import (
    NORM_TWINS,
    PLAIN,
    TWINS,
    adopt,
    is_compute,
    plain_copy,
    swap,
    unsupported,
)


def quantize_(model: nn.Module, recipe: str | Recipe, *, seed: int = 0, verbose: bool = True) -> Report:
    """Give the tensors of `model` the formats of `recipe`, in place.

    Compute layers, norms and average pools become bitwright's modules with the same names and the same
    Parameters; functional operations become submodules (`add`, `relu_1`...) of the module that calls them; a
    ReLU in front of a binary or ternary slot becomes what the recipe names. Slots of one spec that read one
    tensor share one quantiser. Nothing is changed when an error is raised.

    Args:
        model: a plain torch model.
        recipe: a recipe or its name.
        seed: of stochastic rounding.
        verbose: print the table.

    Returns:
        The table of tensors, roles and formats, and what was left alone and why.

    Raises:
        InvalidValueError: the model is already quantised; a key or the whole recipe matches nothing; a
            ReLU would make a binary slot constant and the recipe names no replacement.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError("quantize_ takes a torch.nn.Module", got=type(model).__name__)
    recipe = find_recipe(recipe)
    if is_quantised(model):
        raise InvalidValueError(
            "a model is quantised once",
            got="a model that is already quantised",
            fix="call bitwright.dequantize_(model) first, or build it anew",
        )
    report = _Conversion(model, recipe, seed).run()
    if verbose:
        print(report)
    return report


def is_quantised(model: nn.Module) -> bool:
    """Whether `quantize_` has changed this model, or a part of it."""
    ours = set(PLAIN) - set(TWINS)
    return any(type(m) in ours or is_rewritten(m) for m in model.modules()) or any(quantizers(model))


def dequantize_(model: nn.Module) -> nn.Module:
    """Turn a quantised model back into plain torch modules, in place; stored weights stay as they are.

    Modules that took a ReLU's place stay.
    """
    if not is_quantised(model):
        raise InvalidValueError("dequantize_ takes a quantised model", got="a plain one")
    restore(model)
    swaps = {m: plain_copy(m) for m in model.modules() if type(m) in PLAIN}
    swap(model, swaps)
    for handle in model.__dict__.pop("_bitwright_hooks", ()):
        handle.remove()
    if hasattr(model, STEP_BUFFER):
        delattr(model, STEP_BUFFER)
    return model


def layer_specs(model: nn.Module, recipe: Recipe) -> dict[str, dict[str, QuantizerSpec]]:
    """Qualified name -> role -> spec, for every compute layer, norm, add, concat and pool of the model.

    Raises:
        InvalidValueError: a layer key of the recipe matches nothing and is not optional.
    """
    kinds = (*TWINS, *PLAIN)
    found = {name: m for name, m in model.named_modules() if type(m) in kinds}
    ordered = [n for n in _execution_order(model) if n in found and is_compute(found[n])]
    specs = {}
    matched: set[str] = set()
    for name, module in found.items():
        position = frozenset(
            [*(["first"] if ordered[:1] == [name] else []), *(["last"] if ordered[-1:] == [name] else [])]
        )
        kind = PLAIN.get(type(module), type(module)).__name__
        matched |= {r.key for r in recipe.layers if r.precision(name, kind, position)}
        specs[name] = recipe.specs(name, kind, position)
    for rule in recipe.layers:
        if rule.key not in matched and not rule.optional:
            raise InvalidValueError(
                "every layer key of a recipe matches a layer",
                got=f"{rule.key!r}, which matches none of {', '.join(found) or 'no layer'}",
                where=f"recipe {recipe.name}",
                fix="correct the key, or mark it optional = true",
            )
    return specs


@dataclass
class _Conversion:
    model: nn.Module
    recipe: Recipe
    seed: int

    def run(self) -> Report:
        model, recipe = self.model, self.recipe
        report = Report(recipe.name)
        if not recipe.quantises:
            report.skipped = [
                Skipped(name, type(m).__name__, "the recipe gives no tensor a format")
                for name, m in model.named_modules()
                if type(m) in TWINS
            ]
            return report
        try:
            report.notes += rewrite(model)
            self.convert(report)
        except Exception:
            restore(model)
            raise
        return report

    def convert(self, report: Report) -> None:
        model, recipe = self.model, self.recipe
        if not any(type(m) in TWINS and is_compute(m) for name, m in model.named_modules() if name):
            raise self.nothing_found()
        if hasattr(model, STEP_BUFFER):
            raise InvalidValueError(f"the name {STEP_BUFFER} is free on the root module", got="taken")
        graph = self.trace(report)
        specs = layer_specs(model, recipe)
        swaps: dict[nn.Module, nn.Module] = {}
        for name, module in model.named_modules():
            twin = self.twin(name, module, specs, report)
            if twin is not None:
                swaps[module] = twin
        if not any(is_compute(m) for m in swaps):
            raise self.nothing_found()
        instead, report.replaced = replacements(model, graph, specs, recipe)
        swaps |= instead
        swap(model, swaps)
        _install_step(model)
        if graph is not None:
            share_quantizers(model)
            link_folds(model)
        order = {name: index for index, name in enumerate(_execution_order(model))}
        report.rows.sort(key=lambda row: order.get(row.tensor.split(":")[0], len(order)))

    def nothing_found(self) -> InvalidValueError:
        named = [f"{name} ({type(m).__name__})" for name, m in self.model.named_modules() if name]
        return InvalidValueError(
            f"recipe {self.recipe.name} finds a layer to quantise",
            got=f"none among {', '.join(named) or type(self.model).__name__}",
            fix="it quantises Linear and convolutions; wrap a single layer in nn.Sequential",
        )

    def trace(self, report: Report) -> fx.Graph | None:
        try:
            graph = trace(self.model)
        except UntraceableError as error:
            report.notes.append(f"modules were swapped, but {error}; it cannot be lowered")
            return None
        modules = dict(self.model.named_modules())
        for node in graph.nodes:
            if node.op in ("call_function", "call_method"):
                report.skipped.append(
                    Skipped(node.name, describe(node, modules), "a functional operation has no slot")
                )
        return graph

    def twin(  # noqa: PLR0912 - a branch for each kind of module
        self,
        name: str,
        module: nn.Module,
        specs: dict[str, dict[str, QuantizerSpec]],
        report: Report,
    ) -> nn.Module | None:
        """The quantised twin of a module, or None with a line in the report."""
        kind = type(module).__name__
        if type(module) not in TWINS:
            has_parameters = any(True for _ in module.parameters(recurse=False))
            if isinstance(module, tuple(TWINS)):
                reason = f"a subclass of {type(module).__mro__[1].__name__} may compute something else"
                report.skipped.append(Skipped(name, kind, reason))
            elif has_parameters or not (
                list(module.children()) or isinstance(module, (*TRANSPARENT, Slots, Accumulator))
            ):
                report.skipped.append(Skipped(name, kind, "no quantised twin: a float island"))
            return None
        if name == "":
            return None  # the root itself cannot be swapped in place
        roles = specs[name]
        problem = unsupported(module)
        if problem is not None:
            report.skipped.append(Skipped(name, kind, problem))
            return None
        operands = {r: s for r, s in roles.items() if tensor_of(r) in ("activation", "weight", "error")}
        stored = {r: s for r, s in roles.items() if r in OPTIMIZER_ROLES}
        joins, table = issubclass(TWINS[type(module)], Join), isinstance(module, nn.Embedding)
        if table:  # one operand: tokens have no format, and no error goes back through them
            spec = roles.get("forward.weight", roles.get("weight"))
            operands = {} if spec is None else {"forward.weight": spec}
        if joins:
            spec = roles.get("forward.activation", roles.get("activation"))
            operands, stored = {} if spec is None else {"activation": spec}, {}
        if (is_compute(module) or joins or table) and not operands and not stored:
            report.skipped.append(Skipped(name, kind, "the recipe gives it no format"))
            return None
        twin = adopt(module, (TWINS | NORM_TWINS[self.recipe.norm.kind])[type(module)])
        if isinstance(twin, ComputeLayer):
            twin.slots = Slots(operands, name, self.seed, block_axes(twin), weight_axis(twin))
            twin.accumulator = Accumulator()
            twin.exact = self.recipe.exact
            for role, spec in operands.items():
                estimator = spec.estimator.value if tensor_of(role) != "error" else ""
                report.rows.append(Row(f"{name}:{role}", _covers(role), str(spec), estimator))
        if isinstance(twin, Embedding):
            twin.slots = Slots(operands, name, self.seed, weight_axis=1)
            for role, spec in operands.items():
                report.rows.append(Row(f"{name}:{role}", "its table", str(spec), spec.estimator.value))
        if isinstance(twin, Join):
            spec = operands["activation"]
            places = ("0.activation", "1.activation") if isinstance(twin, Add) else ("activation",)
            twin.slots = Slots(dict.fromkeys(places, spec), name, self.seed)
            if isinstance(twin, Pool):
                twin.accumulator = Accumulator()
            report.rows.append(Row(f"{name}:activation", "its inputs", str(spec), spec.estimator.value))
        self.begin_norm(name, twin, operands, report)
        for role, spec in stored.items():
            parameters = " ".join(n for n, _ in module.named_parameters(recurse=False))
            kept = "weight" if is_compute(module) else parameters
            report.rows.append(Row(f"{name}:{role}", f"optimiser, of {kept}", str(spec)))
        return twin

    def begin_norm(
        self, name: str, twin: nn.Module, operands: dict[str, QuantizerSpec], report: Report
    ) -> None:
        """What a norm of the recipe's kind needs beyond its class, and its rows of the report."""
        rule = self.recipe.norm
        if isinstance(twin, Norm) and rule.kind != "batch":
            report.rows.append(Row(f"{name}:norm", "norm", str(rule)))
        if isinstance(twin, IntegerNorm):
            error = {role: spec for role, spec in operands.items() if role in ("error", "dgrad.error")}
            twin.begin(check_normalised(rule.format), Slots(error, name, self.seed))
            report.rows += [Row(f"{name}:{role}", role, str(spec)) for role, spec in error.items()]


def _covers(role: str) -> str:
    if role in OPERANDS:
        return role
    return " + ".join(operands_of(role))


def _execution_order(model: nn.Module) -> list[str]:
    try:
        return [str(n.target) for n in trace(model).nodes if n.op == "call_module"]
    except UntraceableError:
        return [name for name, _ in model.named_modules()]


def _install_step(model: nn.Module) -> None:
    model.register_buffer(STEP_BUFFER, torch.zeros((), dtype=torch.int64))
    # ranks count alike and exchange their statistics; DDP's broadcast would overwrite what each has measured
    ignored = list(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    model.__dict__["_ddp_params_and_buffers_to_ignore"] = [*ignored, *state_names(model), STEP_BUFFER]
    model.__dict__["_bitwright_hooks"] = (
        model.register_forward_pre_hook(_tick),
        model.register_load_state_dict_pre_hook(_default_step),  # type: ignore[no-untyped-call]
    )


def _tick(model: nn.Module, _: Any) -> None:
    """Before each training forward: count it, and let the scales move."""
    if not model.training:
        return
    step = model.get_buffer(STEP_BUFFER)
    step += 1
    tick(quantizers(model), step)


def _default_step(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    # a float checkpoint has no step counter, and loads strictly all the same
    state_dict.setdefault(prefix + STEP_BUFFER, module.get_buffer(STEP_BUFFER))
