"""scikit-learn's API: the multilayer perceptron as a classifier and a regressor."""

from nnaccel.estimators.classifier import MLPClassifier
from nnaccel.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
