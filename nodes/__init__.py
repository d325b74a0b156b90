"""The nodes: schemas, wires and words. No tensors, no formulas."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .bank_files import GuidanceExportExperts, GuidanceImportExperts
from .cfg import GuidanceAPG, GuidanceCFG, GuidanceRescale
from .checkpoints import GuidanceConvertCheckpoint, GuidancePostHocEMA
from .compare import GuidanceCompare
from .degrade import GuidanceDegrade
from .denoisers import GuidanceLoadDenoiser, GuidanceLowResolution
from .gradient import GuidanceClassifier, GuidanceLoss
from .guides import GuidanceExpertSwitch, GuidanceLoadGuide
from .inspect import GuidanceInspect, GuidanceInspection
from .models import GuidanceClassLabel, GuidanceTinyModel
from .pictures import GuidanceLoadPictures, GuidanceMakePictures
from .report import GuidanceReport
from .schedule import GuidanceSchedule
from .train_experts import GuidanceTrainExperts
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
    GuidanceDegrade,
    GuidanceMakePictures,
    GuidanceLoadPictures,
    GuidanceTrainExperts,
    GuidanceImportExperts,
    GuidanceExportExperts,
    GuidanceInspect,
    GuidanceInspection,
    GuidanceCompare,
]


class GuidanceComponents(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
