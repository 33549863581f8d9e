"""Where classifiers come from: one file a source. Importing them registers them, in this order."""

from advimg.classifiers.sources import bundled, hugging_face, onnx, timm, torchvision

__all__ = ["bundled", "hugging_face", "onnx", "timm", "torchvision"]
