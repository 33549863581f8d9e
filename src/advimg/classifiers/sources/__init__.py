"""Where classifiers come from: one file a source. Importing them registers them, in this order."""

from advimg.classifiers.sources import bundled, clip, open_clip, timm, torchvision

__all__ = ["bundled", "clip", "open_clip", "timm", "torchvision"]
