"""torch.compile of whole quantised networks: one graph, the same bits."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.quantize import quantizers
from bitwright.recipes import LayerRule

# torch's own tracer and compiler use what torch warns of
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

MOVING = {"controller": "max-abs"}
RECIPES = {
    "qnn": {},
    "fixed": dict.fromkeys(("weight", "activation", "error"), "fixed8.4"),
    "moving": {
        "weight": {"format": "int8", **MOVING},
        "activation": {"format": "int8", **MOVING},
        "error": {"format": "fixed12", "rounding": "stochastic", **MOVING},
    },
    "mx": {"weight": "mxfp8e4m3", "activation": "mxfp8e4m3", "error": "mxfp8e5m2"},
}
SHAPES = {"mlp": (1, 28, 28), "convnet": (3, 32, 32)}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def trained(network: str, recipe: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A quantised network after one training step, and a batch."""
    torch.manual_seed(0)
    model = models.build(network, 16 if network == "mlp" else 4, SHAPES[network], 10)
    base = "qnn" if recipe == "qnn" else "float"
    bw.quantize_(model, bw.recipe(base, **RECIPES[recipe]), verbose=False)
    x = torch.rand(8, *SHAPES[network]) * 2 - 1
    model(x).sum().backward()
    model.zero_grad()
    return model, x


def codes_of_a_step(model: torch.nn.Module, step, x: torch.Tensor) -> list[torch.Tensor]:
    """Gradients and every quantiser's state after one training step through `step`."""
    step(x).square().sum().backward()
    return [p.grad for p in model.parameters()] + [b for q in quantizers(model) for b in q.buffers()]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", SHAPES)
def test_a_whole_network_compiles_without_a_graph_break(network, recipe, backend):
    model, x = trained(network, recipe)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ours, plain = codes_of_a_step(model, compiled, x), codes_of_a_step(twin, twin, x)
    if backend == "aot_eager":
        # the same kernels between the quantisers, hence the same bits everywhere
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert int(model.bitwright_step) == int(twin.bitwright_step) == 2
    model.load_state_dict(twin.state_dict())
    model.eval(), twin.eval()
    if recipe != "mx" or backend == "aot_eager":  # mx in eval is torch's float batch norm
        with torch.no_grad():
            assert torch.equal(compiled(x), twin(x))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_quantiser_gives_the_same_codes_compiled(recipe, backend):
    model, _ = trained("mlp", recipe)
    for quantizer in list(quantizers(model))[:4]:
        twin = copy.deepcopy(quantizer)
        x = torch.randn(64, 64)
        left = torch.compile(lambda q, t: q(t).levels, fullgraph=True, backend=backend)(quantizer, x)
        assert torch.equal(left, twin(x).levels)


class Residual(torch.nn.Module):
    """A functional sum, concat, pool and ReLU; the sum's inputs have 8 bits, the layers' 4."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.fc = torch.nn.BatchNorm2d(4), torch.nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = torch.relu(self.norm(self.b(x)) + x)
        z = torch.cat([x, torch.nn.functional.avg_pool2d(y, 3, 1, 1)], 1)
        return self.fc(z.mean((2, 3)))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_branches_compile_without_a_graph_break(backend):
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(8, 2, 6, 6)
    recipe = bw.recipe("float", weight={"format": "int8", **MOVING}, activation={"format": "int4", **MOVING})
    wide = bw.recipe("float", activation={"format": "int8", **MOVING}).roles
    recipe = dataclasses.replace(recipe, layers=(LayerRule("Add", wide),))
    bw.quantize_(model, recipe, verbose=False)
    model(x).sum().backward()
    model.zero_grad()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ours, plain = codes_of_a_step(model, compiled, x), codes_of_a_step(twin, twin, x)
    if backend != "inductor":
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    model.load_state_dict(twin.state_dict())
    assert model.b.slots.primaries
    model.eval(), twin.eval()
    with torch.no_grad():
        assert torch.equal(compiled(x), twin(x))
        assert bw.verify(twin, bw.lower(twin, x), [x]).differing == 0


@pytest.mark.parametrize("recipe", ["qnn-shift", "fxpnet"])
def test_other_norms_compile_without_a_graph_break(recipe):
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(), nn.Flatten(), nn.Linear(64, 3))
    model = nn.Sequential(*layers, nn.BatchNorm1d(3))
    bw.quantize_(model, recipe, verbose=False)
    x = torch.rand(8, 2, 6, 6) * 2 - 1
    model(x).sum().backward()
    model.zero_grad()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ours, plain = codes_of_a_step(model, compiled, x), codes_of_a_step(twin, twin, x)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    model.eval(), twin.eval()
    with torch.no_grad():
        assert torch.equal(compiled(x), twin(x))
