"""Bringing the assigned artifact onto the device, and back off it."""
