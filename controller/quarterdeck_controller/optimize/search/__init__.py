"""Which recipes are tried, in which order, and which one a class gets."""
