"""Who this device is: its keys, its certificate, and how it gets and keeps one."""
