"""How good a model's outputs are, and how sure that is."""
