"""The controller of a fleet: optimize, release, roll out, monitor."""
