"""Where classifiers come from: one file a source. Importing them registers them, in this order."""

from advimg.classifiers.sources import bundled, clip, hugging_face, onnx, open_clip, timm, torchvision

__all__ = ["bundled", "clip", "hugging_face", "onnx", "open_clip", "timm", "torchvision"]
