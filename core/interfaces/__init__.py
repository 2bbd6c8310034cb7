"""The interfaces that families and plugins implement."""

from cyclevar.core.interfaces.backbone import Backbone, Condition, Start, Targets
from cyclevar.core.interfaces.callbacks import (
    Answer,
    Callback,
    Decode,
    ForcedCodes,
    Keep,
    Rewind,
    ScaleStep,
    Select,
    Session,
    Stop,
    Task,
)
from cyclevar.core.interfaces.criteria import Discriminator, PictureLoss, PictureMetric
from cyclevar.core.interfaces.model import Context, PictureModel, Step, TokenModel, Translated
from cyclevar.core.interfaces.quantizer import CodebookQuantizer, Generators, Quantized, Quantizer
from cyclevar.core.interfaces.tokenizer import ScaleState, Tokenizer, View

__all__ = [
    "Answer",
    "Backbone",
    "Callback",
    "CodebookQuantizer",
    "Condition",
    "Context",
    "Decode",
    "Discriminator",
    "ForcedCodes",
    "Generators",
    "Keep",
    "PictureLoss",
    "PictureMetric",
    "PictureModel",
    "Quantized",
    "Quantizer",
    "Rewind",
    "ScaleState",
    "ScaleStep",
    "Select",
    "Session",
    "Start",
    "Step",
    "Stop",
    "Targets",
    "Task",
    "TokenModel",
    "Tokenizer",
    "Translated",
    "View",
]
