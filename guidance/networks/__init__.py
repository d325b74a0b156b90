"""The networks that the pack can build by itself, from an injected `operations` namespace; one folder a family.

So a network runs the same under plain torch, where it is trained and tested, and under the host's layers, where its
memory and dtypes are managed. From outside: the folders, and `layer_changes`, which adds a LoRA beside any layer.
"""
