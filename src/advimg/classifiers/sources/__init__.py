"""Where classifiers come from: one file a source. Importing them registers them, in this order."""

from advimg.classifiers.sources import bundled, onnx, timm, torchvision

__all__ = ["bundled", "onnx", "timm", "torchvision"]
