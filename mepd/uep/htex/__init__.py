"""Parsl's HighThroughputExecutor: the host process that has it, and the pool on a node.

The host (host.py) is a child of the UEP and the only process that knows of providers and
blocks. What runs in a block is pool.py, which starts the same workers as the UEP's other
engines have.
"""
