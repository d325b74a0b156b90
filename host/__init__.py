"""The only floor that imports ComfyUI, in rooms; arrows between them point one way (tests/test_architecture.py).

It installs the engine on a MODEL, evaluates branches, converts noise levels, loads and owns networks. It moves and
groups tensors and never adds them: arithmetic on predictions lives in `guidance`.
"""
