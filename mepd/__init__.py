"""mepd: run people's functions on this machine as their own POSIX account."""

__version__ = "0.1.0"
