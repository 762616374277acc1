"""The master process, as root: one thread, one loop, no network."""
