"""Small networks with branches: residual, pre-activation, dense, inception-like, and what feeds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bitwright.nn import Shortcut


class BasicBlock(nn.Module):
    """Two convolutions and a sum; one ReLU module for both places. Option A, option B, or an identity."""

    def __init__(self, inputs, outputs, stride=1, option="A"):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            more = outputs - inputs
            self.shortcut = (
                Shortcut(stride, more // 2, more - more // 2)
                if option == "A"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    """CIFAR's ResNet: 3 stages of `blocks` blocks, 16 x `width` channels first; 3 x 6 + 2 = 20 layers with 3."""

    def __init__(self, blocks=3, channels=16, option="A"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages, inputs = [], channels
        for stage in range(3):
            for block in range(blocks):
                outputs = channels << stage
                stages.append(BasicBlock(inputs, outputs, 2 if stage and not block else 1, option))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.stages(out)
        out = F.adaptive_avg_pool2d(out, 1)
        out = out.view(out.size(0), -1)
        return self.linear(out)
