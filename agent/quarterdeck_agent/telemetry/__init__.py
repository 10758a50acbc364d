"""Counting what the model does, and keeping it until the controller has it."""
