"""The nodes: schemas, wires and words. No tensors, no formulas."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .cfg import GuidanceAPG, GuidanceCFG, GuidanceRescale
from .checkpoints import GuidanceConvertCheckpoint, GuidancePostHocEMA
from .denoisers import GuidanceLoadDenoiser, GuidanceLowResolution
from .gradient import GuidanceClassifier, GuidanceLoss
from .guides import GuidanceExpertSwitch, GuidanceLoadGuide
from .models import GuidanceClassLabel, GuidanceTinyModel
from .report import GuidanceReport
from .schedule import GuidanceSchedule
from .training import GuidanceLossWeighting
from .weak_model import GuidanceAutoguidance, GuidanceMix

NODES: list[type[io.ComfyNode]] = [
    GuidanceCFG,
    GuidanceAutoguidance,
    GuidanceMix,
    GuidanceSchedule,
    GuidanceRescale,
    GuidanceAPG,
    GuidanceClassifier,
    GuidanceLoss,
    GuidanceReport,
    GuidanceTinyModel,
    GuidanceLoadDenoiser,
    GuidanceClassLabel,
    GuidanceLowResolution,
    GuidanceLoadGuide,
    GuidanceExpertSwitch,
    GuidanceLossWeighting,
    GuidanceConvertCheckpoint,
    GuidancePostHocEMA,
]


class GuidanceComponents(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
