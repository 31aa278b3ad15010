"""From a mask to vertebra lines and curve angles, with an uncertainty, or to a refusal with its reason."""

from sa2net.scoliosis.measurement import Source, measure, measure_levels
from sa2net.scoliosis.result import Measurement
from sa2net.scoliosis.settings import MeasureConfig

__all__ = ["MeasureConfig", "Measurement", "Source", "measure", "measure_levels"]
