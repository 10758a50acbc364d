"""What a variant costs on the real runtime: time, memory, kernels."""
