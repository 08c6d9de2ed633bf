"""Objectives inside the training loops of other libraries, one file a library.

Nothing is imported here: each file needs its library, which is an extra.
"""
