"""Whole runs as Python functions: each takes a configuration and returns what it found."""
