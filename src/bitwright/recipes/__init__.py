"""recipes: one data file per paper, and the code that applies it to a model."""

from bitwright.recipes.convert import dequantize_, is_quantised, layer_specs, quantize_
from bitwright.recipes.optimizer import wrap
from bitwright.recipes.read import names, recipe
from bitwright.recipes.recipe import ROLES, LayerRule, OptimizerRule, Recipe
from bitwright.recipes.refine import Refined, refine
from bitwright.recipes.report import Report, Row, Skipped
from bitwright.recipes.specs import parse_spec
from bitwright.recipes.twins import plain_copy

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
