"""The log-writer: the one process that waits for disks, terminals and the system log."""
