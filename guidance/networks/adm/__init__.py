"""ADM's U-Net and noise-aware classifier (arXiv 2105.05233), by the names and shapes of its released files.

From outside: the networks, their configs, and `detect`, which tells a file's architecture by its tensors.
"""
