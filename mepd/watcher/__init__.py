"""The worker that watches configuration files, as the service account."""
