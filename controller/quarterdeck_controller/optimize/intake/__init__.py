"""Take a model in: what it is, what is refused, and the graph that recipes need."""
