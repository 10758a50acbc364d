"""The brokers that a controller can start and stop itself."""
