"""Engines: where tasks run. base.py is the contract, registry.py names them all."""
