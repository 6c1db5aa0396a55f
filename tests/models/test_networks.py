"""The papers' networks: sizes, order of modules, both recipes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright import models
from bitwright.errors import InvalidValueError


def weights(model):
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def test_mlp_has_the_papers_number_of_weights():
    # QNN, section 6: 784-4096-4096-4096-10 has 36.8 M weights
    assert weights(models.build("mlp", 4096, (1, 28, 28), 10)) == 784 * 4096 + 2 * 4096**2 + 40960


def test_convnet_has_the_papers_number_of_weights():
    # QNN, section 6: 14.02 M weights
    assert weights(models.build("convnet", 128, (3, 32, 32), 10)) == pytest.approx(14.02e6, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("mlp", (3, 32, 32)),
        ("convnet", (1, 28, 28)),
        ("convnet", (3, 8, 8)),
        ("convnet3", (3, 7, 9)),
        ("convnet3", (1, 28, 28)),
        ("dscnn", (1, 28, 28)),
        ("dscnn", (3, 5, 9)),
        ("convnet1d", (1, 8, 8)),
        ("convnet1d", (12, 1, 100)),
    ],
)
def test_output_shape(name, shape):
    model = models.build(name, 8, shape, 7).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_blocks_are_product_pool_norm_activation():
    kinds = [type(m).__name__ for m in models.build("convnet", 4, (3, 32, 32), 10)]
    assert kinds[:7] == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "MaxPool2d",
        "BatchNorm2d",
        "ReLU",
    ]
    assert kinds[-2:] == ["Linear", "BatchNorm1d"]


def test_dscnn_has_depthwise_and_pointwise_layers():
    model = models.build("dscnn", 32, (3, 32, 32), 10)
    convs = [m for m in model if isinstance(m, nn.Conv2d)]
    depthwise, pointwise = convs[1::2], convs[2::2]
    assert [m.groups for m in depthwise] == [m.in_channels for m in depthwise] == [32, 64, 64, 128, 128]
    assert [(m.kernel_size, m.out_channels) for m in pointwise] == [
        ((1, 1), n) for n in (64, 64, 128, 128, 256)
    ]
    pixels = 3 * 32 * 9 + 9 * (32 + 64 + 64 + 128 + 128)
    mixing = 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256
    assert weights(model) == pixels + mixing + 256 * 16 * 10


def test_rows_are_the_channels_of_convnet1d():
    model = models.build("convnet1d", 4, (3, 16, 32), 10)
    assert model(torch.zeros(2, 3, 16, 32)).shape == (2, 10)
    assert model.conv1.in_channels == 48
    assert model[:1](torch.zeros(2, 3, 16, 32)).shape == (2, 48, 32)


def test_bad_names_and_sizes():
    with pytest.raises(InvalidValueError, match=r"valid ones are mlp.*did you mean 'mlp'"):
        models.build("mpl", 8, (1, 8, 8), 10)
    with pytest.raises(InvalidValueError, match="width"):
        models.build("mlp", 0, (1, 8, 8), 10)
    with pytest.raises(InvalidValueError, match="halves"):
        models.build("convnet", 8, (1, 7, 7), 10)
    with pytest.raises(InvalidValueError, match="halves"):
        models.build("convnet1d", 8, (1, 8, 7), 10)
    with pytest.raises(InvalidValueError, match="halves"):
        models.build("convnet3", 8, (1, 7, 6), 10)


def test_convnet3_ends_in_the_pixels_that_its_stride_and_pools_leave():
    model = models.build("convnet3", 4, (3, 33, 20), 10)  # 33 -> 17 -> 8 -> 4, 20 -> 10 -> 5 -> 2
    assert model.fc1.in_features == 8 * 4 * 2
    assert model.eval()(torch.zeros(1, 3, 33, 20)).shape == (1, 10)
