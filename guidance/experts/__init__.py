"""A bank of noise-aware experts (PPAP, arXiv 2212.05973): one base network and the adapter of each expert, in memory
and in files, its own and PPAP's released ones.

From outside: `bank`, `file`, `guide`, and one module for each foreign format.
"""
