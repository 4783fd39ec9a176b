"""Predictive information, and the features that are needed for it."""

from prunus.information.elimination import terc, terc_each
from prunus.information.estimate import Estimate, TooFewSamples, predictive_information

__all__ = ["Estimate", "TooFewSamples", "predictive_information", "terc", "terc_each"]
