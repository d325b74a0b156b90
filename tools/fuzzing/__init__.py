"""Hostile input for the pack: `pool` runs it in processes of its own, `verdict` judges what came of it, and each kind
of input is a module with a class `Scene` (see `pool.KINDS`)."""
