"""The names under which the pack keeps what it puts on a MODEL."""

KEY = "guidance-components"  # the plan, the engine's wrappers, and the open run
INSPECTIONS = f"{KEY}/inspections"
LOSS_WEIGHTING = f"{KEY}/loss-weighting"
WEIGHTS = f"{KEY}/weights"  # those that a guide over a resident network shall have
DEGRADED = f"{KEY}/degraded"
NEGATIVE_ATTENTION = f"{KEY}/negative-attention"  # the wrappers of a run, and which prompt is the negative
