"""The store's shape, step by step: alembic runs `versions` when the gateway starts."""
