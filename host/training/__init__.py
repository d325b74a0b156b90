"""Training without leaving ComfyUI: pictures to learn from, experts, and the weighting of the host's own LoRA trainer.

From outside: what the nodes of training call; `dataset` for picture sets.
"""
