"""Post-training: from a trained float network to integers, without labels and without training."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright import __version__, data, models
from bitwright.analysis import integer_operations, weight_bits
from bitwright.data import Dataset
from bitwright.errors import FileFormatError, InvalidValueError, unknown_name
from bitwright.integer import Network
from bitwright.lowering import lower, verify
from bitwright.quantize import calibrate
from bitwright.recipes import Recipe, Report, quantize_, recipe, refine
from bitwright.recipes import names as recipe_names
from bitwright.training.checkpoint import save_checkpoint
from bitwright.training.loop import CHECKPOINT, MODEL, RESULT, RUN, batches, error_rate, write_json
from bitwright.training.machine import machine
from bitwright.training.weights import load_float_weights

BATCH = 64
"""Examples at a time while calibrating and refining."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PostTraining:
    """One network made of integers after training.

    Args:
        model: network; one of `models.pretrained_names()`, or of `models.names()` with `weights`.
        recipe: name or TOML file of the recipe.
        data: data set.
        weights: safetensors file with the network's state_dict, or the checkpoint of a float run; None takes
            the published weights, with their own preprocessing.
        width: of the network, where `weights` are given; None takes the usual one.
        images: how many training images calibration sees, from the `first` on; without their labels.
        first: see `images`.
        refine: round the weights of each layer together, and correct biases.
        seed: of stochastic rounding.
    """

    model: str = "resnet20"
    recipe: str = "int8"
    data: str = "cifar10"
    weights: str | None = None
    width: int | None = None
    images: int = 256
    first: int = 0
    refine: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.recipe.endswith(".toml") and self.recipe not in recipe_names():
            raise unknown_name("recipe", self.recipe, recipe_names())
        if self.data not in data.names():
            raise unknown_name("data set", self.data, data.names())
        if self.weights is None and self.model not in models.pretrained_names():
            error = unknown_name("pretrained network", self.model, models.pretrained_names())
            known = self.model in models.names()
            raise InvalidValueError(str(error), fix="or give its weights: --weights FILE" if known else None)
        if self.weights is not None and self.model not in models.names():
            raise unknown_name("model", self.model, models.names())
        if self.images < 1 or self.first < 0:
            raise InvalidValueError(
                "calibration takes at least 1 image, from image 0 on",
                got=f"{self.images} images from {self.first} on",
            )

    def find_recipe(self) -> Recipe:
        """The recipe itself."""
        return recipe(self.recipe)

    def load(self, split: str, name: str | None = None) -> Dataset:
        """A split of the data set (or of another), with the preprocessing of the weights."""
        found = data.load(name or self.data, split)
        return found if self.weights is not None else self._fitted(found)

    def _fitted(self, dataset: Dataset) -> Dataset:
        preprocessing = models.pretrained(self.model).preprocessing
        if preprocessing.shape != dataset.preprocessing.shape:
            raise InvalidValueError(
                f"{self.model} takes images of shape {list(preprocessing.shape)}",
                got=list(dataset.preprocessing.shape),
                where=f"data set {dataset.name}",
                fix="use --data cifar10",
            )
        return replace(dataset, preprocessing=preprocessing)

    def float_model(self, dataset: Dataset) -> nn.Module:
        """The trained float network, in eval mode."""
        if self.weights is None:
            return models.pretrained(self.model).model
        width = models.DEFAULT_WIDTHS.get(self.model, 1024) if self.width is None else self.width
        model = models.build(self.model, width, dataset.preprocessing.shape, len(dataset.classes))
        load_float_weights(Path(self.weights), model)
        return model.eval()

    def build(self, dataset: Dataset, *, verbose: bool = False) -> tuple[nn.Module, Report]:
        """The network quantised, its scales not set yet: what the run's checkpoint fills."""
        model = self.float_model(dataset)
        return model, quantize_(model, self.find_recipe(), seed=self.seed, verbose=verbose)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def read(path: Path) -> PostTraining:
        """From the JSON file that a run left."""
        try:
            return PostTraining(**json.loads(path.read_text(encoding="utf-8"))["post_training"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FileFormatError("run.json holds a run's settings", got=error, where=path) from error


def post_training(
    settings: PostTraining,
    out: Path | None = None,
    *,
    test_examples: int | None = None,
    verify_examples: int | None = 64,
    float_error: float | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Quantise, calibrate, refine, lower, test and verify a trained network.

    Args:
        settings: see `PostTraining`.
        out: run folder for model.bw, the emulation's checkpoint and result.json; None keeps nothing.
        test_examples: how many test images the errors are taken on; None takes all.
        verify_examples: how many of them `verify` compares, code by code; None takes all, 0 none.
        float_error: of the float network on those test images, where it is known already.
        progress: is told (stage, done, total).

    Returns:
        JSON values: settings, errors in percent, each layer's output error before and after refinement,
        what was verified, sizes, seconds, machine.
    """
    began = time.perf_counter()
    test = settings.load("test")
    test = test if test_examples is None else test.subset(min(test_examples, len(test)))
    calibration = settings.load("train")
    if settings.first + settings.images > len(calibration):
        raise InvalidValueError(
            f"calibration images lie within the {len(calibration)} of the training set",
            got=f"{settings.images} images from {settings.first} on",
        )
    part = slice(settings.first, settings.first + settings.images)
    calibration = replace(calibration, images=calibration.images[part], labels=calibration.labels[part])
    if float_error is None:
        float_error = error_rate(_Watched(settings.float_model(test), "float", len(test), progress), test)
    model, _ = settings.build(test)
    calibrate(model, _told(calibration, "calibrate", progress))
    refined = []
    if settings.refine:
        steps = refine(
            model, batches(calibration, BATCH), progress=lambda done, total: progress("refine", done, total)
        )
        refined = [dataclasses.asdict(step) for step in steps]
    example = torch.from_numpy(test.inputs(0, 1))
    network = lower(model, example)
    error = _network_error(network, test, progress)
    meta = {
        "bitwright": __version__,
        "recipe": settings.recipe,
        "model": settings.model,
        "data": settings.data,
        "float_error": float_error,
        "test_error": error,
        "classes": list(test.classes),
        "preprocessing": test.preprocessing.to_json(),
    }
    network = Network(network.operations, meta)
    compared = test if verify_examples is None else test.subset(max(1, min(verify_examples, len(test))))
    verified = None
    if verify_examples != 0:
        told = _Told("verify", len(compared), progress)
        done = verify(model, network, batches(compared), progress=told.add)
        verified = {
            "backend": done.backend,
            "examples": done.examples,
            "tensors": done.tensors,
            "compared": done.compared,
            "differing": done.differing,
            "first": None if done.first is None else str(done.first),
        }
    result = {
        "post_training": settings.to_json(),
        "test_examples": len(test),
        "float_error": float_error,
        "test_error": error,
        "refined": refined,
        "verified": verified,
        "operations": integer_operations(network),
        "weight_bits": weight_bits(network),
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
    }
    if out is not None:
        network.save(out / MODEL)
        # an optimiser that has not moved has no state
        optimizer = settings.find_recipe().optimizer(model)
        save_checkpoint(out / CHECKPOINT, model, optimizer, {"history": []})
        write_json(out / RUN, {"post_training": settings.to_json()})
        result["file_bytes"] = (out / MODEL).stat().st_size
        write_json(out / RESULT, result)
    return result


def _network_error(network: Network, test: Dataset, progress: Progress) -> float:
    """Share of wrong answers of the integer network, in percent."""
    wrong = 0
    told = _Told("test", len(test), progress)
    for batch in batches(test):
        answers = network(batch.numpy())
        answers = answers.argmax(1) if answers.ndim > 1 else answers
        wrong += int((answers != test.labels[told.done : told.done + len(batch)]).sum())
        told.add(len(batch))
    return wrong / len(test) * 100


class _Told:
    """Counts examples, and tells of them."""

    def __init__(self, stage: str, total: int, progress: Progress) -> None:
        self.stage, self.total, self.progress = stage, total, progress
        self.done = 0

    def add(self, count: int) -> None:
        self.done += count
        self.progress(self.stage, self.done, self.total)


def _told(dataset: Dataset, stage: str, progress: Progress) -> Iterator[torch.Tensor]:
    told = _Told(stage, len(dataset), progress)
    for batch in batches(dataset, BATCH):
        yield batch
        told.add(len(batch))


class _Watched(nn.Module):
    """A model that tells how many examples it has seen."""

    def __init__(self, model: nn.Module, stage: str, total: int, progress: Progress) -> None:
        super().__init__()
        self.model = model
        self.told = _Told(stage, total, progress)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.model(x)
        self.told.add(len(x))
        return y
