"""Training of experts and its loss weights, as parts that a caller puts together.

This room exists so that whatever a user trains for guidance comes from code that is in the pack, seeded and tested. Of
the disk it knows the file of a training that was stopped, nothing else; it has no progress bars and no threads. From
outside: `recipe` (what decides a training), `experts` (the training itself), `checkpoint`, `weighting`.
"""
