"""Training of a quantized graph from its file alone, and PyTorch modules as input."""
