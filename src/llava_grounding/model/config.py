"""The model's configuration: one transformers config with a sub-config per part.

Numbers only. No layer is built here and no file is read; `builders.py` unfolds these objects into plain arguments.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llava_grounding.checkpoint_files import check_values
from llava_grounding.errors import ConfigError, did_you_mean, one_line
from llava_grounding.model import efficientnet_lite, nanodet  # noqa: F401 - so that their model_types are known
from llava_grounding.typed_values import is_whole

_PIXEL_DECODERS = ("deformable", "feature_pyramid")
_CONVOLUTIONS = ("full", "separable")
_PROPOSAL_ORDERS = ("official", "fine_small")
_TOWERS = ("clip_vision_model", "siglip_vision_model")
# Of which transformers imports another package, or fetches weights by a name.
_ELSEWHERE = ("timm_backbone", "timm_wrapper")
_RENAMED_KEYS = {"query_selection": "score_function"}  # key of a checkpoint from before 0.1: the key it has now
# Keys without a field that transformers itself writes or reads.
_TRANSFORMERS_KEYS = {"model_type", "name_or_path", "dtype", "torch_dtype", "num_labels", "output_attentions"} | {
    "attn_implementation",
    "experts_implementation",
    "per_layer_config",
    "quantization_config",
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_output_attentions",
}
MAX_QUERIES = 2**16
"""Object queries that a grounder may pick from an image."""
# Least and most of what both vision modules are made of.
_SIZES = {
    "image_size": (32, 2048),
    "hidden_size": (1, 2**16),
    "mask_size": (1, 2**16),
    "phrase_size": (1, 2**20),
    "num_heads": (1, 256),
    "num_levels": (1, 8),
    "num_points": (1, 256),
    "encoder_layers": (0, 1000),
    "encoder_ffn_size": (1, 2**20),
    "decoder_layers": (0, 1000),
    "decoder_ffn_size": (1, 2**20),
    "num_queries": (1, MAX_QUERIES),
    "num_mask_tokens": (1, 1000),
}
_Part = TypeVar("_Part", bound=PreTrainedConfig)


def _as_config(value: Any, default_type: str, kinds: Container[str]) -> PreTrainedConfig:
    """Turn what a JSON file or a caller gives for a part of transformers into its config object.

    Args:
        kinds: types of transformers' own models there may be in its place; a program may register others.
    """
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, Mapping) and value is not None:
        raise ConfigError(f"a part of the configuration must be an object, got {value!r:.80}")
    arguments = dict(value or {})
    model_type = arguments.pop("model_type", default_type)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        hint = did_you_mean(str(model_type)[:80], CONFIG_MAPPING)
        raise ConfigError(f"unknown model_type `{model_type!s:.80}`{hint}")
    room = CONFIG_MAPPING[model_type].__module__
    if model_type in _ELSEWHERE or room == __name__ or (room.startswith("transformers.") and model_type not in kinds):
        raise ConfigError(f"a `{model_type}` model cannot be a part of this one")
    try:
        return CONFIG_MAPPING[model_type](**arguments)
    except ConfigError:
        raise
    except Exception as error:  # whatever the class of a family makes of values that it does not expect
        raise ConfigError(
            f"no `{model_type}` model is as described: {type(error).__name__}: {one_line(error, 300)}"
        ) from error


def _is_known(config_class: type[PreTrainedConfig], key: str) -> bool:
    names = {field.name for field in fields(config_class)}
    return key in names or key in _TRANSFORMERS_KEYS


def _unknown_keys(config_class: type[PreTrainedConfig], given: Iterable[str], prefix: str = "") -> list[str]:
    """A problem for every key that means nothing; transformers would take it as one more attribute."""
    own = [field.name for field in fields(config_class) if field not in fields(PreTrainedConfig)]
    return [
        f"unknown key `{prefix}{key}`{did_you_mean(_RENAMED_KEYS.get(key, key), own)}"
        for key in given
        if not _is_known(config_class, key)
    ]


def _choice_problems(rows: Iterable[tuple[str, str, tuple[str, ...]]]) -> list[str]:
    """A problem for every (name, value, allowed values) whose value is not allowed."""
    return [
        f"{name} must be one of {', '.join(allowed)}, got `{value!s:.80}`{did_you_mean(str(value)[:80], allowed)}"
        for name, value, allowed in rows
        if value not in allowed
    ]


def _part(config_class: type[_Part], value: Any, name: str, problems: list[str]) -> _Part:
    """A part of ours from what was given, without the keys that mean nothing; those become problems."""
    if isinstance(value, config_class):
        return value
    if not isinstance(value, Mapping) and value is not None:
        raise ConfigError(f"{name} must be an object, got {value!r:.80}")
    values = dict(value or {})
    problems += _unknown_keys(config_class, values, f"{name}.")
    return config_class(**{key: entry for key, entry in values.items() if _is_known(config_class, key)})


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("; ".join(problems))


class _StrictConfig(PreTrainedConfig):
    """A configuration that refuses keys it has no field for."""

    # Checkers of argument types read a signature that does not show the further keys transformers passes.
    __no_type_check__: ClassVar[bool] = True

    def __post_init__(self, **kwargs: Any) -> None:
        _raise(_unknown_keys(type(self), kwargs))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, for the values of a file: within limits, and without anything that could run or fetch.

        Raises:
            CheckpointError: naming the key that may not be there, or is out of all bounds.
            ConfigError: if the values do not describe a model.
        """
        check_values(config_dict, "config.json")
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without the places that its parts once came from: files do not name other places."""
        values: dict[str, Any] = super().to_dict()
        parts = [values]
        while parts:
            part = parts.pop()
            parts += [value for value in part.values() if isinstance(value, dict)]
            if "_name_or_path" in part:
                part["_name_or_path"] = ""
        return values


def _size_problems(part: str, config: PreTrainedConfig) -> list[str]:
    """Sizes of a vision module that nothing can be built with."""
    problems = []
    for name, (least, most) in _SIZES.items():
        value = getattr(config, name, least)
        if not is_whole(value) or not least <= value <= most:
            problems.append(f"{part}.{name} must be {least:,} to {most:,}, got {value!r:.80}")
    if not problems and config.hidden_size % config.num_heads:
        problems.append(
            f"{part}.hidden_size must be a multiple of its num_heads, got {config.hidden_size} and {config.num_heads}"
        )
    return problems


class _VisionModuleConfig(_StrictConfig):
    """Sizes that the grounder and the visual prompt encoder have alike: backbone, pixel decoder and query decoder."""

    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    """A backbone with maps at strides 4, 8, 16, 32: `nanodet`, `efficientnet_lite`, or one of transformers."""
    pixel_decoder: str = "deformable"
    """`deformable` as the original, or `feature_pyramid` without attention, which learns faster when small."""
    hidden_size: int = 256
    """Width of memory cells and queries."""
    mask_size: int = 256
    """Width of the stride-4 mask features."""
    num_heads: int = 8
    """Attention heads of both decoders."""
    num_levels: int = 4
    """Feature levels in memory; four levels add a stride-64 one."""
    num_points: int = 4
    """Sampling points per head and level of deformable attention."""
    encoder_layers: int = 6
    """Deformable layers of the pixel decoder."""
    encoder_ffn_size: int = 2048
    """Width of the feed-forward part of these layers."""
    norm_groups: int = 32
    """Groups of channels that the deformable decoder's GroupNorm normalises together; 32 as the original, whatever the
    width. It must divide hidden_size: a small model may need fewer."""
    decoder_layers: int = 9
    """Layers of the query decoder."""
    decoder_ffn_size: int = 2048
    """Width of the feed-forward part of these layers."""


class GrounderConfig(_VisionModuleConfig):
    """Sizes of the grounder: backbone, pixel decoder, query decoder, similarity head. Defaults: the original's."""

    model_type = "llava_grounding_grounder"

    mask_convolution: str = "full"
    """The feature pyramid's 3x3 convolution at stride 4: `full` or `separable` (an eighth of the work)."""
    image_size: int = 1024
    """Side of the square canvas an image is letterboxed into, pixels."""
    phrase_size: int = 4096
    """Width of a phrase embedding: the language model's hidden size."""
    num_queries: int = 300
    """Object queries picked from memory."""
    proposal_order: str = "official"
    """`official`: the finest level starts from the largest box (a quirk); `fine_small`: from the smallest."""
    initial_logit_bias: float | None = None
    """Start of a learned bias on phrase logits, for training from nothing; None: no such parameter, as the original."""
    image_mean: tuple[float, float, float] | list[float] = (123.675, 116.28, 103.53)
    """The mean of each channel, of pixels 0..255."""
    image_std: tuple[float, float, float] | list[float] = (58.395, 57.12, 57.375)
    """The standard deviation of each channel, of pixels 0..255."""
    pad_value: int = 128
    """Grey written right and below the image before normalisation."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = _as_config(self.backbone_config, "swin", MODEL_FOR_BACKBONE_MAPPING_NAMES)
        super().__post_init__(**kwargs)


class VisualPromptConfig(_VisionModuleConfig):
    """Sizes of the visual prompt encoder; its image side is like the grounder's. Defaults: the original's."""

    model_type = "llava_grounding_visual_prompt"

    share_image_features: bool = False
    """Read the grounder's image memory instead of encoding the image once more; then there is no backbone."""
    num_mask_tokens: int = 3
    """Queries per prompt; 6 in the public Semantic-SAM weights."""
    isolate_prompts: bool = True
    """Prompts of one image do not see each other, as the original trains; its inference takes one prompt."""

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.backbone_config
        self.backbone_config = (
            None if self.share_image_features else _as_config(given, "swin", MODEL_FOR_BACKBONE_MAPPING_NAMES)
        )
        super().__post_init__(**kwargs)


class LlavaGroundingConfig(_StrictConfig):
    """The whole model. Defaults: the original 7B's sizes; `preset()` gives the others by name.

    `vision_config=None` means that the language model reads the grounder's own features (see `shared_tower.py`)
    instead of a CLIP or SigLIP tower.
    """

    model_type = "llava_grounding"
    sub_configs: ClassVar = {
        "text_config": AutoConfig,
        "vision_config": AutoConfig,
        "grounder_config": GrounderConfig,
        "visual_prompt_config": VisualPromptConfig,
    }

    text_config: Any = None
    """Any causal language model of transformers."""
    vision_config: Any = None
    """`clip_vision_model` or `siglip_vision_model`, or None for the shared tower."""
    grounder_config: Any = None
    """The grounder: a GrounderConfig, or a mapping of its fields."""
    visual_prompt_config: Any = None
    """The visual prompt encoder: a VisualPromptConfig, or a mapping of its fields."""
    projector: str = "linear"
    """`linear` or `mlp` (two layers with GELU, as LLaVA-1.5)."""
    vision_feature_layer: int = -2
    """Which hidden state of the tower is read."""
    vision_feature_select: str = "patch"
    """`patch` drops the class token, `full` keeps it (SigLIP has none)."""
    shared_tower_objects: int = 20
    """Shared tower only: how many of the grounder's object queries become image tokens."""
    image_token_id: int = 32003
    """Placeholder the image features replace; may lie beyond the vocabulary, since it is always filled."""
    seg_token_id: int = 32002
    """The token `<seg>`, whose hidden state is the phrase embedding."""
    region_token_id: int = 32004
    """Placeholder a visual prompt's embedding replaces; may lie beyond the vocabulary as well."""
    eos_token_id: int | None = 2
    """Ends an answer."""
    pad_token_id: int | None = 0
    """Fills shorter rows of a batch."""
    phrase_state: str = "before_seg"
    """Hidden state handed to the grounder: the one that predicts `<seg>` (original's inference), or `at_seg`."""
    phrase_projector: str = "none"
    """`none`: the hidden state is the phrase embedding, as in the original; `linear`: one layer between."""
    phrase_queries: str = "phrases"
    """What selects the object queries that phrases are scored on: the phrases (original), or the `image` alone with the
    shared tower's `anything` phrase, so that a phrase's regions do not depend on the other phrases of the answer."""
    score_function: str = "softmax"
    """What makes the logit of a query for a phrase a score: softmax over queries (original), or sigmoid."""
    score_threshold: float = 0.05
    """Queries with a higher score are kept."""
    nms_iou: float | None = None
    """Drop a kept query whose box overlaps a better one by more; None keeps all, as the original."""
    detach_grounding: bool = False
    """Stop the gradient from the grounder into the language model (table 14 of the paper)."""
    tie_word_embeddings: bool = False
    """Output layer shares the input embedding's weights."""

    def __post_init__(self, **kwargs: Any) -> None:
        problems = _unknown_keys(type(self), kwargs)
        try:
            self.text_config = _as_config(self.text_config, "llama", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
            if self.vision_config is not None:
                self.vision_config = _as_config(self.vision_config, _TOWERS[0], CONFIG_MAPPING)
        except ConfigError as error:
            problems.append(str(error))
        self.grounder_config = _part(GrounderConfig, self.grounder_config, "grounder_config", problems)
        self.visual_prompt_config = _part(
            VisualPromptConfig, self.visual_prompt_config, "visual_prompt_config", problems
        )
        _raise(problems + self._wrong_choices() + self._misfits())
        super().__post_init__(**kwargs)

    def _wrong_choices(self) -> list[str]:
        rows = [
            ("projector", self.projector, ("linear", "mlp")),
            ("phrase_state", self.phrase_state, ("before_seg", "at_seg")),
            ("phrase_projector", self.phrase_projector, ("none", "linear")),
            ("phrase_queries", self.phrase_queries, ("phrases", "image")),
            ("score_function", self.score_function, ("softmax", "sigmoid")),
            ("vision_feature_select", self.vision_feature_select, ("patch", "full")),
            ("grounder_config.pixel_decoder", self.grounder_config.pixel_decoder, _PIXEL_DECODERS),
            ("grounder_config.mask_convolution", self.grounder_config.mask_convolution, _CONVOLUTIONS),
            ("grounder_config.proposal_order", self.grounder_config.proposal_order, _PROPOSAL_ORDERS),
            ("visual_prompt_config.pixel_decoder", self.visual_prompt_config.pixel_decoder, _PIXEL_DECODERS),
        ]
        if isinstance(self.vision_config, PreTrainedConfig):
            rows.append(("vision_config.model_type", self.vision_config.model_type, _TOWERS))
        return _choice_problems(rows)

    def _misfits(self) -> list[str]:
        """Parts that do not fit each other, or nothing."""
        grounder, prompts = self.grounder_config, self.visual_prompt_config
        problems = _size_problems("grounder_config", grounder) + _size_problems("visual_prompt_config", prompts)
        if not is_whole(self.shared_tower_objects) or not 0 <= self.shared_tower_objects <= MAX_QUERIES:
            problems.append(f"shared_tower_objects must be 0 to {MAX_QUERIES:,}")
        if self.phrase_queries == "image" and self.vision_config is not None:
            problems.append("phrase_queries can be `image` only with the shared tower (vision_config=None)")
        language_size = getattr(self.text_config, "hidden_size", grounder.phrase_size)
        if grounder.phrase_size != language_size:
            problems.append(
                f"grounder_config.phrase_size must equal the language model's hidden size "
                f"{language_size}, got {grounder.phrase_size}"
            )
        shared = ("hidden_size", "mask_size", "num_levels")
        if prompts.share_image_features and any(getattr(prompts, name) != getattr(grounder, name) for name in shared):
            problems.append(
                "visual_prompt_config must have the grounder's hidden_size, mask_size and num_levels "
                "to share its features"
            )
        return problems

    @property
    def image_sequence_length(self) -> int:
        """Language-model positions one image takes."""
        if self.vision_config is None:
            stride = 32 * 2 ** max(0, self.grounder_config.num_levels - 3)  # of the coarsest level
            cells = -(-self.grounder_config.image_size // stride)
            return cells * cells + self.shared_tower_objects
        side = self.vision_config.image_size // self.vision_config.patch_size
        has_class_token = self.vision_config.model_type.startswith("clip")
        return side * side + (1 if has_class_token and self.vision_feature_select == "full" else 0)
