"""What every room of the host floor uses: noise levels in the host's terms, which models fit each other, decoders,
class labels, the scope in which autograd works, errors in words.

All of it may be used from outside. It imports no other room of this floor.
"""
