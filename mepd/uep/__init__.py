"""The user endpoint: one process that takes one user's tasks and gives back results."""
