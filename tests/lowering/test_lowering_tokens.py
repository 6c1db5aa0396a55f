"""Networks over tokens: emulation, interpreter and engine compute the same codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from token_networks import RECIPES, TOKEN_MODELS, Mean, token_model
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import UInt
from bitwright.kernels import available_isas
from bitwright.nn import Embedding
from bitwright.quantize import quantizers


@pytest.mark.parametrize(("kind", "recipe"), list(itertools.product(TOKEN_MODELS, RECIPES)))
def test_networks_over_tokens_compute_the_same_codes(kind, recipe):
    model, x, _ = token_model(kind, recipe)
    network = bw.lower(model, x)
    assert network.input.counts
    for isa in (None, *available_isas()):
        backend = "interpreter" if isa is None else "engine"
        result = bw.verify(model, network, [x[:4], x[4:]], backend=backend, isa=isa)
        assert result.differing == 0, result
        assert any("words" in tensor and "weight" in tensor for tensor in result.elements)
        assert "output" in result.elements


def test_a_table_is_quantised_trained_and_calibrated():
    torch.manual_seed(1)
    plain = Mean(20)
    model = Mean(20)
    model.load_state_dict(plain.state_dict())
    table = {"format": "int4", "controller": "max-abs", "per": "channel"}
    report = bw.quantize_(model, bw.recipe("float", weight=table, activation="int8"), verbose=False)
    assert next((row.tensor, row.role) for row in report.rows) == ("words:forward.weight", "its table")
    assert isinstance(model.words, Embedding)
    assert isinstance(model.words, nn.Embedding)
    x = torch.randint(0, 20, (5, 7))
    model(x).square().sum().backward()
    # a scale for each number of a row: the largest magnitude over the largest code
    weight = plain.words.weight.detach()
    scale = weight.abs().amax(0) / 7
    quantizer = next(q for q in quantizers(model.words))
    assert torch.equal(quantizer.current_scale().flatten(), scale)
    values = torch.round(weight / scale).clamp(-8, 7) * scale
    assert torch.equal(model.words(x), F.embedding(x, values))
    gradient = model.words.weight.grad
    seen = torch.bincount(x.flatten(), minlength=20) > 0
    seen[0] = False  # padding_idx
    assert torch.equal(gradient.abs().sum(1) > 0, seen)
    assert bw.calibrate(model, [x, x]) == 2
    assert bw.verify(model, bw.lower(model, x), [x]).differing == 0
    bw.dequantize_(model)
    assert type(model.words) is nn.Embedding
    assert torch.equal(model(x), plain(x))


def test_a_network_takes_integers_of_any_type():
    model, x, _ = token_model("mean", "int8", tokens=300)
    network = bw.lower(model, x)
    assert network.input.format == UInt(9)
    expected = network(x.numpy().astype(np.uint16))
    for kind in (np.int64, np.int32, np.uint32, np.float32):
        assert np.array_equal(network(x.numpy().astype(kind)), expected)
    for wrong in (-1, 512, 1 << 40):
        tokens = x.numpy().copy()
        tokens[3, 2] = wrong
        with pytest.raises(InvalidValueError, match=r"index \(3, 2\) of the batch"):
            network(tokens)
    beyond = x.numpy().copy()
    beyond[beyond == 7] = 511  # torch refuses it; here it is the last row
    last = np.where(beyond == 511, 299, beyond)
    assert np.array_equal(network(beyond), network(last))
    images = nn.Sequential(nn.Linear(4, 3))
    bw.quantize_(images, bw.recipe("float", weight="int8", activation="fixed8.4"), verbose=False)
    with pytest.raises(InvalidTypeError, match="a batch is float32"):
        bw.lower(images, torch.zeros(1, 4))(np.zeros((1, 4), np.int64))


def test_a_network_over_tokens_survives_its_file(tmp_path):
    model, x, _ = token_model("two tables", "zero points", tokens=70000)
    network = bw.lower(model, x)
    network.save(tmp_path / "tokens.bw")
    again = bw.load(tmp_path / "tokens.bw")
    assert np.array_equal(again(x.numpy()), model.eval()(x).detach().numpy())


def refusal(model, x, **roles):
    roles = {"weight": "int8", "activation": "fixed8.4", **roles}
    bw.quantize_(model, bw.recipe("float", **roles), verbose=False)
    with pytest.raises(InvalidValueError) as caught:
        bw.lower(model, x)
    return str(caught.value)


def test_what_embeddings_do_not_do_is_named():
    x = torch.zeros(2, 7, dtype=torch.int64)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(9, 4, mode="mean"), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.bag(x))

    assert "bag (EmbeddingBag) is not supported: its integers are an Embedding and a mean" in refusal(
        Bag(), x
    )

    def words(**more):
        return nn.Sequential(nn.Embedding(9, 4, **more), nn.Flatten(), nn.Linear(28, 3))

    assert "0 (Embedding) is not supported: max_norm = 1.0" in refusal(words(max_norm=1.0), x)
    assert "0 (Embedding) is not supported: sparse = True" in refusal(words(sparse=True), x)
    assert "0: the recipe leaves it in float" in refusal(words(), x, weight="float", forward_weight="float")
    assert "leaves" in refusal(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)), x)
    behind = nn.Sequential(nn.Linear(7, 7), nn.Embedding(9, 4), nn.Flatten(), nn.Linear(28, 3))
    assert "1 takes tokens: a model's input" in refusal(behind, x.float())
    normed = nn.Sequential(
        nn.Embedding(9, 4), nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Flatten(), nn.Linear(49, 3)
    )
    assert "a norm behind a linear layer" in refusal(normed, x)
