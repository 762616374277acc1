"""The child between fork and exec: root first, the mapped user at the end."""
