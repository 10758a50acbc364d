"""Every task of the benchmark, by name."""

from types import MappingProxyType

from tests.bench.quantization.task import Recipe
from tests.bench.quantization.tasks import cls, magika, rec

RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (cls.RECIPE, rec.RECIPE, magika.RECIPE)}
)
