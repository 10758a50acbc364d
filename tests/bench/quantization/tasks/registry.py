"""Every task of the benchmark, by name."""

from types import MappingProxyType

from tests.bench.quantization.task import Recipe
from tests.bench.quantization.tasks import (
    blazeface,
    cls,
    elpv,
    glyphs,
    magika,
    minilm,
    rec,
    silero,
    watch,
)

RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            cls.RECIPE,
            rec.RECIPE,
            minilm.RECIPE,
            magika.RECIPE,
            *glyphs.RECIPES,
            silero.RECIPE,
            *watch.RECIPES,
            blazeface.RECIPE,
            elpv.RECIPE,
        )
    }
)
