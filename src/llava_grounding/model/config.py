"""The model's configuration: one transformers config with a sub-config per part, and the named presets.

Numbers only. No layer is built here and no file is read; `builders.py` unfolds these objects into plain arguments.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, ClassVar, Literal, TypeVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.model import efficientnet_lite  # noqa: F401 - so that its model_type is known

PhraseState = Literal["before_seg", "at_seg"]
QuerySelection = Literal["softmax", "sigmoid"]
_PIXEL_DECODERS = ("deformable", "feature_pyramid")
_CONVOLUTIONS = ("full", "separable")
_PROPOSAL_ORDERS = ("official", "fine_small")
_TOWERS = ("clip_vision_model", "siglip_vision_model")
# Keys without a field that transformers itself writes or reads.
_TRANSFORMERS_KEYS = {"model_type", "name_or_path", "dtype", "torch_dtype", "num_labels", "output_attentions"} | {
    "attn_implementation",
    "experts_implementation",
    "per_layer_config",
    "quantization_config",
    "auto_map",
}
_Part = TypeVar("_Part", bound=PreTrainedConfig)


def _as_config(value: dict[str, Any] | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    """Turn what a JSON file or a caller gives for a part of transformers into its config object."""
    if isinstance(value, PreTrainedConfig):
        return value
    arguments = dict(value or {})
    model_type = arguments.pop("model_type", default_type)
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"unknown model_type `{model_type}`{did_you_mean(model_type, CONFIG_MAPPING)}")
    return CONFIG_MAPPING[model_type](**arguments)


def _is_known(config_class: type[PreTrainedConfig], key: str) -> bool:
    names = {field.name for field in fields(config_class)}
    return key in names or key in _TRANSFORMERS_KEYS or key.startswith("_")


def _unknown_keys(config_class: type[PreTrainedConfig], given: Iterable[str], prefix: str = "") -> list[str]:
    """A problem for every key that means nothing; transformers would take it as one more attribute."""
    own = [field.name for field in fields(config_class) if field not in fields(PreTrainedConfig)]
    return [f"unknown key `{prefix}{key}`{did_you_mean(key, own)}" for key in given if not _is_known(config_class, key)]


def _choice_problems(rows: Iterable[tuple[str, str, tuple[str, ...]]]) -> list[str]:
    """A problem for every (name, value, allowed values) whose value is not allowed."""
    return [
        f"{name} must be one of {', '.join(allowed)}, got `{value}`{did_you_mean(str(value), allowed)}"
        for name, value, allowed in rows
        if value not in allowed
    ]


def _part(config_class: type[_Part], value: dict[str, Any] | _Part | None, name: str, problems: list[str]) -> _Part:
    """A part of ours from what was given, without the keys that mean nothing; those become problems."""
    if isinstance(value, config_class):
        return value
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


class GrounderConfig(_StrictConfig):
    """Sizes of the grounder: backbone, pixel decoder, query decoder, similarity head. Defaults: the original's."""

    model_type = "llava_grounding_grounder"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    # A backbone with maps at strides 4, 8, 16, 32: `efficientnet_lite`, or one of transformers (`swin`, `resnet`, ...).
    pixel_decoder: str = "deformable"
    # "deformable" as the original, or "feature_pyramid" without attention, which learns faster when small.
    mask_convolution: str = "full"
    # Of the feature pyramid: the 3x3 convolution at stride 4, "full" or "separable" (an eighth of the work).
    image_size: int = 1024
    # Side of the square canvas an image is letterboxed into, pixels.
    hidden_size: int = 256
    # Width of memory cells and queries.
    mask_size: int = 256
    # Width of the stride-4 mask features.
    phrase_size: int = 4096
    # Width of a phrase embedding: the language model's hidden size.
    num_heads: int = 8
    # Attention heads of both decoders.
    num_levels: int = 4
    # Feature levels in memory; four levels add a stride-64 one.
    num_points: int = 4
    # Sampling points per head and level of deformable attention.
    encoder_layers: int = 6
    # Deformable layers of the pixel decoder.
    encoder_ffn_size: int = 2048
    # Width of their feed-forward part.
    decoder_layers: int = 9
    # Layers of the query decoder.
    decoder_ffn_size: int = 2048
    # Width of their feed-forward part.
    num_queries: int = 300
    # Object queries picked from memory.
    proposal_order: str = "official"
    # "official": the finest level starts from the largest box (a quirk); "fine_small": from the smallest.
    initial_logit_bias: float | None = None
    # Start of a learned bias on phrase logits, for training from nothing; None: no such parameter, as the original.
    image_mean: tuple[float, float, float] | list[float] = (123.675, 116.28, 103.53)
    # Per channel, of pixels 0..255.
    image_std: tuple[float, float, float] | list[float] = (58.395, 57.12, 57.375)
    # Per channel, of pixels 0..255.
    pad_value: int = 128
    # Grey written right and below the image before normalisation.

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = _as_config(self.backbone_config, "swin")
        super().__post_init__(**kwargs)


class VisualPromptConfig(_StrictConfig):
    """Sizes of the visual prompt encoder; its image side is like the grounder's. Defaults: the original's."""

    model_type = "llava_grounding_visual_prompt"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    share_image_features: bool = False
    # Read the grounder's image memory instead of encoding the image once more.
    backbone_config: Any = None
    # As in the grounder; unused when features are shared.
    pixel_decoder: str = "deformable"
    # As in the grounder.
    hidden_size: int = 256
    # Width of memory cells and prompt queries.
    mask_size: int = 256
    # Width of the stride-4 mask features.
    num_heads: int = 8
    # Attention heads.
    num_levels: int = 4
    # Feature levels in memory.
    num_points: int = 4
    # Sampling points per head and level.
    encoder_layers: int = 6
    # Deformable layers of the pixel decoder.
    encoder_ffn_size: int = 2048
    # Width of their feed-forward part.
    decoder_layers: int = 9
    # Layers of the query decoder.
    decoder_ffn_size: int = 2048
    # Width of their feed-forward part.
    num_mask_tokens: int = 3
    # Queries per prompt; 6 in the public Semantic-SAM weights.
    isolate_prompts: bool = True
    # Prompts of one image do not see each other, as the original trains; its inference takes one prompt.

    def __post_init__(self, **kwargs: Any) -> None:
        if not self.share_image_features:
            self.backbone_config = _as_config(self.backbone_config, "swin")
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
    # Any causal language model of transformers.
    vision_config: Any = None
    # `clip_vision_model` or `siglip_vision_model`, or None for the shared tower.
    grounder_config: Any = None
    # See GrounderConfig.
    visual_prompt_config: Any = None
    # See VisualPromptConfig.
    projector: str = "linear"
    # "linear" or "mlp" (two layers with GELU, as LLaVA-1.5).
    vision_feature_layer: int = -2
    # Which hidden state of the tower is read.
    vision_feature_select: str = "patch"
    # "patch" drops the class token, "full" keeps it (SigLIP has none).
    shared_tower_objects: int = 20
    # Shared tower only: how many of the grounder's object queries become image tokens.
    image_token_id: int = 32003
    # Placeholder the image features replace; may lie beyond the vocabulary, since it is always filled.
    seg_token_id: int = 32002
    # `<seg>`: its hidden state is the phrase embedding.
    region_token_id: int = 32004
    # Placeholder a visual prompt's embedding replaces; may lie beyond the vocabulary as well.
    eos_token_id: int | None = 2
    # Ends an answer.
    pad_token_id: int | None = 0
    # Fills shorter rows of a batch.
    phrase_state: str = "before_seg"
    # Hidden state handed to the grounder: the one that predicts `<seg>` (original's inference), or "at_seg".
    phrase_projector: str = "none"
    # "none": the hidden state is the phrase embedding, as in the original; "linear": one layer between.
    phrase_queries: str = "phrases"
    # Which queries phrases are scored on: picked by the phrases (original), or by the "image" alone with the shared
    # tower's "anything" phrase, so that a phrase's regions do not depend on the other phrases of the answer.
    query_selection: str = "softmax"
    # Score of a query: softmax over queries (original) or sigmoid.
    score_threshold: float = 0.05
    # Queries with a higher score are kept.
    nms_iou: float | None = None
    # Drop a kept query whose box overlaps a better one by more; None keeps all, as the original.
    detach_grounding: bool = False
    # Stop the gradient from the grounder into the language model (table 14 of the paper).
    tie_word_embeddings: bool = False
    # Output layer shares the input embedding's weights.

    def __post_init__(self, **kwargs: Any) -> None:
        problems = _unknown_keys(type(self), kwargs)
        try:
            self.text_config = _as_config(self.text_config, "llama")
            if self.vision_config is not None:
                self.vision_config = _as_config(self.vision_config, _TOWERS[0])
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
            ("query_selection", self.query_selection, ("softmax", "sigmoid")),
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
        """Parts that do not fit each other."""
        problems = []
        grounder, prompts = self.grounder_config, self.visual_prompt_config
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
