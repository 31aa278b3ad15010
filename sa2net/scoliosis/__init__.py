"""From a mask to vertebra lines and curve angles, with an uncertainty, or to a refusal with its reason."""

from sa2net.scoliosis.measurement import Source, measure, measure_levels
from sa2net.scoliosis.result import Measurement

__all__ = ["Measurement", "Source", "measure", "measure_levels"]
