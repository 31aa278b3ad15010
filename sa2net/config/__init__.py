"""Every setting of the project (`sections`), and how settings are read, overridden and printed (`loading`)."""

from sa2net.config.base import Section
from sa2net.config.loading import SECTIONS, Config, as_section, key_lines
from sa2net.config.measuring import MeasureConfig
from sa2net.config.sections import (
    AugmentConfig,
    BatchConfig,
    Device,
    EvaluateConfig,
    FetchConfig,
    FloorsConfig,
    LossConfig,
    ModelConfig,
    Precision,
    PredictorConfig,
    RegisterConfig,
    TrainConfig,
    ValidateConfig,
)

__all__ = [
    "SECTIONS",
    "AugmentConfig",
    "BatchConfig",
    "Config",
    "Device",
    "EvaluateConfig",
    "FetchConfig",
    "FloorsConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "Precision",
    "PredictorConfig",
    "RegisterConfig",
    "Section",
    "TrainConfig",
    "ValidateConfig",
    "as_section",
    "key_lines",
]
