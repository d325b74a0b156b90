"""Files from strangers, read as plain tensors and never unpickled, and files of ours, written whole or not at all.

From outside: `open_checkpoint`, `GuideSource`, `atomic_save` and the errors that they raise.
"""
