"""EDM2's U-Net (arXiv 2312.02696) and the post-hoc average of its snapshots.

From outside: `unet`, `config`, `averaging`.
"""
