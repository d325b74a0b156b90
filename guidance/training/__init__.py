"""Training, as parts that a caller puts together: noise samplers, loss weights, averaged weights and the loop.

This room exists so that the embedded networks, and whatever a user trains for guidance, come from code that is in the
pack, seeded and tested. It owns no files, no progress bars and no threads: the loop is an iterator of reports.
"""
