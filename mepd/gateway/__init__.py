"""The web service of a site of its own, as the service account."""
