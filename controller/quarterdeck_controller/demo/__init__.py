"""The whole chain on one machine: real processes, real model, real data."""
