"""Predictive information, and TERC, which chooses the features that are needed for it.

What is preserved depends on the predictor. Linear: the best linear reconstruction of the target; a feature that the
others determine nonlinearly looks indispensable, one that helps only together with another (XOR) looks useless. MLP:
what 50 rectified units can make of the features; it sees both correctly, at tens of times the cost.
"""

from prunus.information.elimination import terc, terc_each
from prunus.information.estimate import Estimate, TooFewSamples, predictive_information

__all__ = ["Estimate", "TooFewSamples", "predictive_information", "terc", "terc_each"]
