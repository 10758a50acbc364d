"""ONNX operators in PyTorch, so that a graph can be differentiated."""
