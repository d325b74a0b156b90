"""The embedded picture world: unlimited class-labelled pictures whose ground truth is known exactly.

This room exists so that every claim of the pack can be trained and measured on any machine with no download: a seeded
renderer draws ten kinds of shapes with their depth and segmentation maps.
"""

from world.render import SIZE, Pictures, render
from world.shapes import LABELS

__all__ = ["LABELS", "SIZE", "Pictures", "render"]
