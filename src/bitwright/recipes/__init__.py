"""recipes: one data file per paper, and the code that applies it to a model."""

from bitwright.recipes.convert import dequantize_, is_quantised, layer_specs, plain_copy, quantize_
from bitwright.recipes.optimizer import wrap
from bitwright.recipes.recipe import (
    ROLES,
    LayerRule,
    OptimizerRule,
    Recipe,
    names,
    parse_spec,
    recipe,
)
from bitwright.recipes.refine import Refined, refine
from bitwright.recipes.report import Report, Row, Skipped

__all__ = [
    "ROLES",
    "LayerRule",
    "OptimizerRule",
    "Recipe",
    "Refined",
    "Report",
    "Row",
    "Skipped",
    "dequantize_",
    "is_quantised",
    "layer_specs",
    "names",
    "parse_spec",
    "plain_copy",
    "quantize_",
    "recipe",
    "refine",
    "wrap",
]
