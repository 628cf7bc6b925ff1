"""scikit-learn's API: the multilayer perceptron as a classifier and a regressor."""

from nnaccel.estimators.classifier import MLPClassifier
from nnaccel.estimators.displays import LossCurveDisplay
from nnaccel.estimators.regressor import MLPRegressor

__all__ = ["LossCurveDisplay", "MLPClassifier", "MLPRegressor"]
