"""Chunks on their way to devices: broadcast once, repaired where they were lost."""
