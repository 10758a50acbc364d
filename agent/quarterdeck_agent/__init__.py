"""The agent that runs on one device."""

__version__ = "0.1.0"
