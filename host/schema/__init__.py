"""Inputs of nodes made from rules: widgets, sockets, and the values back.

From outside: everything; only nodes do.
"""
