"""The networks the pack can build by itself, from an injected `operations` namespace, and the reader of their files.

This room exists so that a network runs the same under plain torch, where it is trained and tested, and under the host's
layers, where its memory and dtypes are managed. `files.py` is the one place in `guidance/` that touches the disk.
"""
