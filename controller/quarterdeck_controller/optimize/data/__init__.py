"""The samples that calibrate, select and judge."""
