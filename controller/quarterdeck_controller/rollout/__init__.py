"""Move a cohort to a release in waves, and put it right when it goes wrong."""
