"""Neural networks that learn by explaining themselves."""

__version__ = "0.1.0"
