"""Training: checked examples, epochs as a generator, early stopping and predictions."""

from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

__all__ = ["EarlyStopping", "Epoch", "initialize", "predict", "train"]
