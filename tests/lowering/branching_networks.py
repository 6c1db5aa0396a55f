"""Small networks with branches: residual, pre-activation, dense, inception-like, and what feeds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bitwright.nn import Add, Concat, Shortcut


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
    """CIFAR's ResNet: 3 stages of `blocks` blocks; 6 `blocks` + 2 layers."""

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


class PreActivation(nn.Module):
    """Norm and ReLU in front of the convolutions; the stem and every sum also feed the skip, unnormed."""

    def __init__(self, channels=6, blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2 * blocks))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * blocks))
        self.last = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, 4)

    def forward(self, x):
        x = self.stem(x)
        for place in range(0, len(self.convs), 2):
            y = self.convs[place](F.relu(self.norms[place](x)))
            y = self.convs[place + 1](F.relu(self.norms[place + 1](y)))
            x = x + y
        x = F.relu(self.last(x))
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """DenseNet's: each layer normalises and reads all earlier ones; a transition pools by 2."""

    def __init__(self, growth=4, layers=2):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
        channels = 2 * growth
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.norms.append(nn.BatchNorm2d(channels))
            self.convs.append(nn.Conv2d(channels, growth, 3, padding=1, bias=False))
            channels += growth
        self.norm = nn.BatchNorm2d(channels)
        self.squeeze = nn.Conv2d(channels, 5, 1)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = self.pool(self.squeeze(F.relu(self.norm(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Inception(nn.Module):
    """Four branches of one tensor, joined; the input feeds two layers."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2)
        self.one, self.three = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pooled = nn.Conv2d(8, 2, 1)
        self.fc = nn.Linear(18, 4)

    def forward(self, x):
        x = F.relu6(torch.cat((self.left(x), self.right(x)), dim=1))
        branches = [
            F.relu(self.norm(self.one(x))),
            F.hardtanh(self.three(x), -0.3, 0.9),
            self.pooled(F.avg_pool2d(x, 3, 1, 1)),
            F.max_pool2d(x, 3, stride=1, padding=1),
        ]
        x = torch.cat(branches, 1)
        return self.fc(x.mean([-1, -2]))


class Functional(nn.Module):
    """Every operation as a function; `Modules` computes the same with modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.a(x)), 2)
        y = self.b(x).clamp(min=0)
        y += self.c(x)
        z = torch.add(F.hardtanh(y), x.relu())
        w = torch.cat((F.avg_pool2d(z, 2), F.max_pool2d(y, (2, 2)).clamp(-1, 2)), dim=1)
        w = F.adaptive_avg_pool2d(F.dropout(w, 0.0, self.training), 1)
        return self.fc(w.view(w.size(0), -1))


class Modules(nn.Module):
    """`Functional` with modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(12, 4)
        self.pool, self.relu, self.tanh, self.clip = (
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Hardtanh(),
            nn.Hardtanh(-1, 2),
        )
        self.average, self.everywhere = nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.sum1, self.sum2, self.join = Add(), Add(), Concat()
        self.dropout, self.flatten = nn.Dropout(0.0), nn.Flatten()

    def forward(self, x):
        x = self.pool(self.relu(self.a(x)))
        y = self.sum1(self.relu(self.b(x)), self.c(x))
        z = self.sum2(self.tanh(y), self.relu(x))
        w = self.join([self.average(z), self.clip(self.pool(y))])
        return self.fc(self.flatten(self.everywhere(self.dropout(w))))
