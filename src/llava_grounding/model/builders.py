"""Unfolds configuration objects into parts built from plain arguments. The only place that knows both."""

from torch import nn
from transformers import PreTrainedConfig

from llava_grounding.errors import ConfigError
from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.config import MAX_QUERIES, GrounderConfig, LlavaGroundingConfig, VisualPromptConfig
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.language import FeatureVisionTower, build_projector
from llava_grounding.model.pixel_decoder import DeformablePixelDecoder, FeaturePyramidPixelDecoder
from llava_grounding.model.shared_tower import SharedVisionTower
from llava_grounding.model.visual_prompt import VisualPromptEncoder
from llava_grounding.typed_values import is_whole


def build_image_side(config: GrounderConfig | VisualPromptConfig) -> tuple[nn.Module, nn.Module]:
    """Backbone and pixel decoder of one vision module."""
    backbone = build_backbone(config.backbone_config)
    if config.pixel_decoder == "feature_pyramid":
        return backbone, FeaturePyramidPixelDecoder(
            in_channels=backbone.channels,
            hidden_size=config.hidden_size,
            mask_size=config.mask_size,
            num_levels=config.num_levels,
            mask_convolution=getattr(config, "mask_convolution", "full"),
            norm_groups=config.norm_groups,
        )
    return backbone, DeformablePixelDecoder(
        in_channels=backbone.channels,
        hidden_size=config.hidden_size,
        mask_size=config.mask_size,
        num_levels=config.num_levels,
        num_layers=config.encoder_layers,
        num_heads=config.num_heads,
        num_points=config.num_points,
        ffn_size=config.encoder_ffn_size,
        norm_groups=config.norm_groups,
    )


def set_num_queries(grounder: Grounder, config: LlavaGroundingConfig, count: int) -> None:
    """Have a grounder pick another number of object queries from an image; they have no weights of their own.

    Args:
        config: of the model that it is a part of; says the new number from now on.

    Raises:
        ConfigError: if the grounder cannot pick as many, or the language model reads more of them.
    """
    read = config.shared_tower_objects if config.vision_config is None else 0
    if not is_whole(count) or not max(1, read) <= count <= MAX_QUERIES:
        raise ConfigError(f"num_queries must be {max(1, read)} to {MAX_QUERIES:,} here, got {count!r:.80}")
    config.grounder_config.num_queries = count
    grounder.query_selection.num_queries = count


def build_grounder(config: GrounderConfig) -> Grounder:
    """The grounder with random weights."""
    backbone, pixel_decoder = build_image_side(config)
    return Grounder(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        hidden_size=config.hidden_size,
        mask_size=config.mask_size,
        phrase_size=config.phrase_size,
        num_heads=config.num_heads,
        num_levels=config.num_levels,
        num_points=config.num_points,
        decoder_layers=config.decoder_layers,
        decoder_ffn_size=config.decoder_ffn_size,
        num_queries=config.num_queries,
        proposal_order=config.proposal_order,
        initial_logit_bias=config.initial_logit_bias,
    )


def build_visual_prompt_encoder(config: VisualPromptConfig, output_size: int) -> VisualPromptEncoder:
    """The visual prompt encoder with random weights; without an image side when it shares the grounder's."""
    backbone, pixel_decoder = (None, None) if config.share_image_features else build_image_side(config)
    return VisualPromptEncoder(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        hidden_size=config.hidden_size,
        mask_size=config.mask_size,
        output_size=output_size,
        num_heads=config.num_heads,
        num_levels=config.num_levels,
        num_points=config.num_points,
        decoder_layers=config.decoder_layers,
        decoder_ffn_size=config.decoder_ffn_size,
        num_mask_tokens=config.num_mask_tokens,
    )


def build_phrase_projector(config: LlavaGroundingConfig) -> nn.Module:
    """What a `<seg>` hidden state passes on its way to the grounder: nothing, or one linear layer."""
    size = config.text_config.hidden_size
    if config.phrase_projector == "none":
        return nn.Identity()
    # A state leaves an RMS norm with a length of sqrt(size); it shall arrive with about one, or first logits explode.
    projector = nn.Linear(size, size)
    nn.init.normal_(projector.weight, std=1 / size)
    nn.init.zeros_(projector.bias)
    return projector


def build_vision_tower(config: LlavaGroundingConfig) -> tuple[nn.Module, nn.Module]:
    """Vision tower and the projector that fits it."""
    out_size = config.text_config.hidden_size
    if config.vision_config is None:
        grounder: PreTrainedConfig = config.grounder_config
        shared = SharedVisionTower(grounder.hidden_size, grounder.phrase_size, config.shared_tower_objects)
        return shared, build_projector(config.projector, shared.output_size, out_size)
    has_class_token = config.vision_config.model_type.startswith("clip")
    tower = FeatureVisionTower(
        config.vision_config, config.vision_feature_layer, has_class_token and config.vision_feature_select == "patch"
    )
    return tower, build_projector(config.projector, config.vision_config.hidden_size, out_size)
