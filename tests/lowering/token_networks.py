"""Small networks that begin with an embedding."""

from __future__ import annotations

import torch
from torch import nn

import bitwright as bw


class Mean(nn.Module):
    """A bag of words."""

    def __init__(self, tokens=300):
        super().__init__()
        self.words = nn.Embedding(tokens, 12, padding_idx=0)
        self.fc = nn.Linear(12, 9)
        self.out = nn.Linear(9, 4)

    def forward(self, x):
        return self.out(torch.relu(self.fc(self.words(x).mean(1))))


class Flat(nn.Module):
    """Every place has weights of its own."""

    def __init__(self, tokens=11):
        super().__init__()
        self.words = nn.Embedding(tokens, 6)
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(7 * 6, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.fc(torch.flatten(self.words(x), 1)))))


class Convolved(nn.Module):
    """A 1-d convolutional network, and a skip around it."""

    def __init__(self, tokens=64):
        super().__init__()
        self.words = nn.Embedding(tokens, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        x = self.words(x).permute(0, 2, 1)
        x = x + torch.relu(self.norm(self.conv(x)))
        return self.out(torch.max_pool1d(x, 2).mean(-1))


class TwoTables(nn.Module):
    """Two tables of one input, linear layers over every place, scores of every place."""

    def __init__(self, tokens=400):
        super().__init__()
        self.words, self.more = nn.Embedding(tokens, 5), nn.Embedding(tokens - 3, 5)
        self.fc = nn.Linear(5, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        x = self.words(x) + self.more(x)
        return self.out(torch.relu(self.fc(x))).transpose(1, 2)


class Places(nn.Module):
    """Scores of every place in one row, from convolutions after linear layers."""

    def __init__(self, tokens=5):
        super().__init__()
        self.words = nn.Embedding(tokens, 5)
        self.fc = nn.Linear(5, 6)
        self.conv = nn.Conv1d(6, 3, 2)
        self.out = nn.Linear(3, 4)

    def forward(self, x):
        x = torch.relu(self.fc(self.words(x))).transpose(1, 2)
        return self.out(self.conv(x).transpose(2, 1)).flatten(1)


class TextCNN(nn.Module):
    """Convolutions of two widths, the largest answer of each over the text (Kim, EMNLP 2014)."""

    def __init__(self, tokens=30):
        super().__init__()
        self.words = nn.Embedding(tokens, 6)
        self.convs = nn.ModuleList(nn.Conv1d(6, 5, k) for k in (2, 3))
        self.pool = nn.AdaptiveMaxPool1d(1)
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        x = self.words(x).transpose(1, 2)
        return self.out(torch.cat([self.pool(torch.relu(c(x))) for c in self.convs], 1).flatten(1))


TOKEN_MODELS = {
    "mean": Mean,
    "flat": Flat,
    "convolved": Convolved,
    "two tables": TwoTables,
    "places": Places,
    "text cnn": TextCNN,
}
RECIPES = {
    "int8": ({"format": "int8", "controller": "max-abs", "per": "channel"}, "int8", "max-abs"),
    "zero points": ({"format": "int4", "controller": "max-abs"}, "uint8", "min-max"),
    "int3": ({"format": "int3", "controller": "max-abs", "per": "channel"}, "int3", "max-abs"),
    "ternary": ("ternary", "int8", "max-abs"),
    "log4": ({"format": "log4", "controller": "max-abs"}, "fixed12", "max-abs"),
}


def token_model(kind, recipe, seed=0, **more):
    """A model with scales and norm statistics that a training step left; and a batch of tokens."""
    torch.manual_seed(seed)
    model = TOKEN_MODELS[kind](**more)
    weight, form, controller = RECIPES[recipe]
    activation = {"format": form, "controller": controller}
    report = bw.quantize_(model, bw.recipe("float", weight=weight, activation=activation), verbose=False)
    tokens = model.words.num_embeddings - (3 if kind == "two tables" else 0)
    x = torch.randint(0, tokens, (6, 7))
    x[0, :2] = torch.tensor([0, tokens - 1])
    model(x)
    return model, x, report
