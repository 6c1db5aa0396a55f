"""torch.compile of whole quantised networks: one graph, the same bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.quantize import quantizers

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
