"""Tiny random image classifiers of transformers, a folder each, as ``save_pretrained`` writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import image_processing_auto

_SIDE = 32
_CLASSES = 5
_SPREAD = 0.5
_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": _SIDE,
    "patch_size": 8,
}
_TOWER = {"vision_config": _ENCODER, "projection_dim": 16}
_SWIN = {
    "image_size": _SIDE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
_TWO = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_FOUR = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_HEADS = {**_FOUR, "num_attention_heads": [1, 1, 2, 2], "image_size": _SIDE}


@dataclass(frozen=True)
class Family:
    """How to make a small model of a family.

    Attributes:
        config: what makes it small.
        side: of its input.
        prefix: of its classes' names, where it has several for images.
        processor: the model type whose image processor it uses.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    side: int = _SIDE
    prefix: str = ""
    processor: str = ""


FAMILIES: Mapping[str, Family] = {
    "beit": Family(_ENCODER),
    "bit": Family({**_TWO, "embedding_size": 8, "num_groups": 4}),
    "clip": Family(_TOWER),
    "convnext": Family({**_TWO, "num_stages": 2}),
    "convnextv2": Family({**_TWO, "num_stages": 2}),
    "data2vec-vision": Family(_ENCODER),
    "deit": Family(_ENCODER, prefix="DeiT"),
    "dinov2": Family(_ENCODER),
    "dinov2_with_registers": Family(_ENCODER, processor="dinov2"),
    "donut-swin": Family(_SWIN, processor="swin"),
    "efficientnet": Family(
        {"image_size": _SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}
    ),
    "hgnet_v2": Family(
        {
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16],
            "stage_mid_channels": [8, 8],
            "stage_out_channels": [16, 32],
            "stage_num_blocks": [1, 1],
            "stage_downsample": [False, True],
            "stage_light_block": [False, False],
            "stage_kernel_size": [3, 3],
            "stage_numb_of_layers": [2, 2],
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
        },
        processor="vit",
    ),
    "hiera": Family(
        {
            "image_size": [_SIDE, _SIDE],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
        }
    ),
    "ijepa": Family(_ENCODER),
    "levit": Family(
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48],
            "depths": [1, 1, 1],
            "num_attention_heads": [1, 2, 2],
            "key_dim": [8, 8, 8],
        },
        side=64,
        prefix="Levit",
    ),
    "metaclip_2": Family(_TOWER),
    "mobilenet_v1": Family({"depth_multiplier": 0.25, "image_size": _SIDE}),
    "mobilenet_v2": Family({"depth_multiplier": 0.25, "image_size": _SIDE}),
    "mobilevit": Family(
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]}, side=64
    ),
    "mobilevitv2": Family({"image_size": 64, "width_multiplier": 0.25}, side=64),
    "poolformer": Family(_FOUR),
    "pvt_v2": Family(_HEADS),
    "regnet": Family({**_TWO, "embedding_size": 8, "groups_width": 4}),
    "resnet": Family({**_TWO, "embedding_size": 8}),
    "segformer": Family({**_HEADS, "decoder_hidden_size": 16}),
    "siglip": Family({"vision_config": _ENCODER}),
    "swiftformer": Family({"image_size": _SIDE, "embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "swin": Family(_SWIN),
    "swinv2": Family(_SWIN),
    "vit": Family(_ENCODER),
    "vit_msn": Family(_ENCODER),
}


def save(name: str, folder: Path, seed: int = 1) -> None:
    """Write a random model of a family, and its image processor, into a folder."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(name, num_labels=_CLASSES, **family.config)
    if family.prefix:
        model = getattr(transformers, f"{family.prefix}ForImageClassification")(config)
    else:
        auto: Any = transformers.AutoModelForImageClassification
        model = auto.from_config(config)
    _wake(model, family.side)
    model.save_pretrained(folder)
    processor_of(name).save_pretrained(folder)


def processor_of(name: str, backend: str = "torchvision") -> Any:
    """Return the image processor of a family, made for small pictures."""
    family = FAMILIES[name]
    classes = vars(image_processing_auto)["IMAGE_PROCESSOR_MAPPING_NAMES"][family.processor or name]
    class_ = getattr(transformers, classes[backend])
    return class_(**_small(class_(), family.side))


def _wake(model: nn.Module, side: int) -> None:
    """Scale a random model's head so that its logits differ by about one: as made, they are nearly the same."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == _CLASSES]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # some families make them so small that nothing passes
            nn.init.kaiming_normal_(module.weight)
    noise = torch.randn(16, 3, side, side)
    with torch.no_grad():
        model.train()
        for _ in range(20):  # the running means and variances of a batch norm
            model(pixel_values=noise)
        model.eval()
        spread = model(pixel_values=noise).logits.std(dim=0).mean()
        for head in heads:
            head.weight.mul_(_SPREAD / spread.clamp_min(1e-6))
        centre = model(pixel_values=noise).logits.mean(dim=0)
        for head in heads:
            if head.bias is not None:
                head.bias.sub_(centre / len(heads))


def _small(processor: Any, side: int) -> dict[str, Any]:
    """Return the settings that make a processor's pictures small, with its own way of sizing them."""
    size = dict(processor.size)
    cropped = processor.do_center_crop and processor.crop_size is not None
    larger = side * 8 // 7 if cropped else side
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": larger} if size.get("shortest_edge") else dict.fromkeys(("height", "width"), larger)
    }
    if cropped:
        sizes["crop_size"] = {"height": side, "width": side}
    return sizes
