"""Telemetry windows: mergeable, idempotent, at most 500 bytes."""
