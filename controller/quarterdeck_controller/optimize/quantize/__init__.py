"""Make a variant of a prepared model by a recipe."""
