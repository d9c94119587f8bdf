"""The model's configuration: one transformers config with a sub-config per part, and the named presets.

Numbers only. No layer is built here and no file is read; `builders.py` unfolds these objects into plain arguments.
"""

from typing import Any, ClassVar, Literal

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from llava_grounding.errors import ConfigError, did_you_mean

PhraseState = Literal["before_seg", "at_seg"]
QuerySelection = Literal["softmax", "sigmoid"]


def _as_config(value: dict[str, Any] | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    """Turn what a JSON file or a caller gives for a part of transformers into its config object."""
    if isinstance(value, PreTrainedConfig):
        return value
    arguments = dict(value or {})
    model_type = arguments.pop("model_type", default_type)
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"unknown model_type `{model_type}`{did_you_mean(model_type, CONFIG_MAPPING)}")
    return CONFIG_MAPPING[model_type](**arguments)


class GrounderConfig(PreTrainedConfig):
    """Sizes of the grounder: backbone, pixel decoder, query decoder, similarity head. Defaults: the original's."""

    model_type = "llava_grounding_grounder"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    # A transformers backbone with maps at strides 4, 8, 16, 32 (`swin`, `resnet`, ...).
    pixel_decoder: str = "deformable"
    # "deformable" as the original, or "feature_pyramid" without attention, which learns faster when small.
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


class VisualPromptConfig(PreTrainedConfig):
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
    # Prompts of one image do not see each other; the original isolates in training only.

    def __post_init__(self, **kwargs: Any) -> None:
        if not self.share_image_features:
            self.backbone_config = _as_config(self.backbone_config, "swin")
        super().__post_init__(**kwargs)


class LlavaGroundingConfig(PreTrainedConfig):
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
    # Placeholder the image features replace.
    seg_token_id: int = 32002
    # `<seg>`: its hidden state is the phrase embedding.
    region_token_id: int = 1273
    # Placeholder a visual prompt's embedding replaces.
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
        self.text_config = _as_config(self.text_config, "llama")
        if self.vision_config is not None:
            self.vision_config = _as_config(self.vision_config, "clip_vision_model")
        if not isinstance(self.grounder_config, GrounderConfig):
            self.grounder_config = GrounderConfig(**(self.grounder_config or {}))
        if not isinstance(self.visual_prompt_config, VisualPromptConfig):
            self.visual_prompt_config = VisualPromptConfig(**(self.visual_prompt_config or {}))
        self._validate()
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        problems = []
        for name, value, allowed in [
            ("projector", self.projector, ("linear", "mlp")),
            ("phrase_state", self.phrase_state, ("before_seg", "at_seg")),
            ("phrase_projector", self.phrase_projector, ("none", "linear")),
            ("phrase_queries", self.phrase_queries, ("phrases", "image")),
            ("query_selection", self.query_selection, ("softmax", "sigmoid")),
            ("vision_feature_select", self.vision_feature_select, ("patch", "full")),
            ("grounder_config.pixel_decoder", self.grounder_config.pixel_decoder, ("deformable", "feature_pyramid")),
        ]:
            if value not in allowed:
                problems.append(f"{name} must be one of {', '.join(allowed)}, got `{value}`")
        if self.phrase_queries == "image" and self.vision_config is not None:
            problems.append("phrase_queries can be `image` only with the shared tower (vision_config=None)")
        if self.grounder_config.phrase_size != self.text_config.hidden_size:
            problems.append(
                f"grounder_config.phrase_size must equal the language model's hidden size "
                f"{self.text_config.hidden_size}, got {self.grounder_config.phrase_size}"
            )
        if self.visual_prompt_config.share_image_features and (
            self.visual_prompt_config.hidden_size != self.grounder_config.hidden_size
            or self.visual_prompt_config.mask_size != self.grounder_config.mask_size
            or self.visual_prompt_config.num_levels != self.grounder_config.num_levels
        ):
            problems.append(
                "visual_prompt_config must have the grounder's hidden_size, mask_size and num_levels to share its features"
            )
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def image_sequence_length(self) -> int:
        """Language-model positions one image takes."""
        if self.vision_config is None:
            stride = 2 ** (self.grounder_config.num_levels + (1 if self.grounder_config.num_levels > 3 else 2))
            cells = -(-self.grounder_config.image_size // stride)
            return cells * cells + self.shared_tower_objects
        side = self.vision_config.image_size // self.vision_config.patch_size
        has_class_token = self.vision_config.model_type.startswith("clip")
        return side * side + (1 if has_class_token and self.vision_feature_select == "full" else 0)
