"""A MODEL made worse on purpose while it is evaluated: its attention, its blocks, its input.

From outside: `degrade` alone.
"""
