"""What one training run is: settings in a small JSON file, and the model they name."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright import data, models
from bitwright.data import Dataset
from bitwright.errors import FileFormatError, InvalidValueError, unknown_name
from bitwright.nn import FloatLayer
from bitwright.recipes import Recipe, quantize_, recipe
from bitwright.recipes import names as recipe_names
from bitwright.recipes.report import Report

DEFAULT_EPOCHS = {"digits": 60, "mnist": 25, "cifar10": 10, "svhn": 10, "imagenet": 1}
"""By data set: enough for the recipes' networks to settle."""


@dataclass(frozen=True)
class Settings:
    """One training run.

    Args:
        recipe: name or TOML file of the recipe.
        model, width: network and its width.
        data: data set.
        epochs: length of the whole run, which the learning rate's decay depends on.
        batch: examples per step.
        lr, lr_final: None takes the recipe's.
        seed: of weights, order of examples, dropout and stochastic rounding.
        examples: train on the first so many examples only; None takes all.
        roles: role -> spec in place of the recipe's, as `recipe(name, **roles)` takes them.
    """

    recipe: str = "qnn"
    model: str = "mlp"
    width: int = 1024
    data: str = "digits"
    epochs: int = 20
    batch: int = 100
    lr: float | None = None
    lr_final: float | None = None
    seed: int = 0
    examples: int | None = None
    roles: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.recipe.endswith(".toml") and self.recipe not in recipe_names():
            raise unknown_name("recipe", self.recipe, recipe_names())
        for kind, name, valid in (
            ("model", self.model, models.names()),
            ("data set", self.data, data.names()),
        ):
            if name not in valid:
                raise unknown_name(kind, name, valid)
        for name in ("width", "epochs", "batch", "examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"{name} is at least 1", got=value)
        if self.batch == 1:
            raise InvalidValueError("batch norm needs batches of at least 2", got=1)
        for name in ("lr", "lr_final"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidValueError(f"{name} is positive", got=value)
        if not 0 <= self.seed < 1 << 32:
            raise InvalidValueError("a seed lies in 0 to 2^32 - 1", got=self.seed)

    def load(self, split: str, name: str | None = None) -> Dataset:
        """A split of the run's data set, or of another."""
        return data.load(name or self.data, split)

    def find_recipe(self) -> Recipe:
        """The recipe itself."""
        return recipe(self.recipe, **self.roles)

    def build(self, dataset: Dataset, *, verbose: bool = False) -> tuple[nn.Module, Report]:
        """The network with fresh weights, quantised; the same for the same settings."""
        found = self.find_recipe()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            shape = dataset.preprocessing.shape
            model = models.build(self.model, self.width, shape, len(dataset.classes))
            if found.initial_weights == "uniform":
                for module in model.modules():
                    if isinstance(module, FloatLayer):
                        nn.init.uniform_(module.weight, -1.0, 1.0)
        return model, quantize_(model, found, seed=self.seed, verbose=verbose)

    def learning_rate(self, progress: float) -> float:
        """lr (lr_final / lr)^progress, progress from 0 to 1."""
        rule = self.find_recipe().optimizer_rule
        first = rule.lr if self.lr is None else self.lr
        last = rule.lr_final if self.lr_final is None else self.lr_final
        return float(first * (last / first) ** progress)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def read(path: Path) -> Settings:
        """From the JSON file that a run left."""
        try:
            return Settings(**json.loads(path.read_text(encoding="utf-8"))["settings"])
        except FileNotFoundError:
            raise FileFormatError(
                "a run folder holds run.json",
                got="none",
                where=path,
                fix="name a folder that `bitwright train` made",
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FileFormatError("run.json holds a run's settings", got=error, where=path) from error
