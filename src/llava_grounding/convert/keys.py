"""Key names of the original's two vision modules and what they are called here.

Strings and tensors only: builds no model, reads no file. A key that is neither renamed, an alias nor listed as
ignorable is an error that names it.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from llava_grounding.errors import CheckpointError

GROUNDER_PREFIX = "seg_model.model."
PROMPT_ENCODER_PREFIX = "interactive_model.model."

_SWIN_BLOCK = r"backbone\.layers\.(\d+)\.blocks\.(\d+)"
_OUR_BLOCK = r"backbone.body.swin.encoder.layers.\1.blocks.\2"
_PIXEL = r"sem_seg_head\.pixel_decoder"
_ENCODER_LAYER = rf"{_PIXEL}\.transformer\.encoder\.layers\.(\d+)"
_PREDICTOR = r"sem_seg_head\.predictor"
_DECODER_LAYER = rf"{_PREDICTOR}\.decoder\.layers\.(\d+)"
_END = r"(\.weight|\.bias)"

_IMAGE_SIDE: list[tuple[str, str]] = [
    (rf"backbone\.patch_embed\.proj{_END}", r"backbone.body.swin.embeddings.patch_embeddings.projection\1"),
    (rf"backbone\.patch_embed\.norm{_END}", r"backbone.body.swin.embeddings.norm\1"),
    (rf"{_SWIN_BLOCK}\.norm1{_END}", rf"{_OUR_BLOCK}.layernorm_before\3"),
    (rf"{_SWIN_BLOCK}\.norm2{_END}", rf"{_OUR_BLOCK}.layernorm_after\3"),
    (rf"{_SWIN_BLOCK}\.attn\.qkv{_END}", rf"{_OUR_BLOCK}.attention.{{qkv}}_proj\3"),
    (rf"{_SWIN_BLOCK}\.attn\.proj{_END}", rf"{_OUR_BLOCK}.attention.o_proj\3"),
    (
        rf"{_SWIN_BLOCK}\.attn\.relative_position_bias_table",
        rf"{_OUR_BLOCK}.attention.relative_position_bias.relative_position_bias_table",
    ),
    (rf"{_SWIN_BLOCK}\.mlp\.(fc1|fc2){_END}", rf"{_OUR_BLOCK}.mlp.\3\4"),
    (
        rf"backbone\.layers\.(\d+)\.downsample\.(norm|reduction){_END}",
        r"backbone.body.swin.encoder.layers.\1.downsample.\2\3",
    ),
    (rf"backbone\.norm(\d+){_END}", r"backbone.body.hidden_states_norms.stage{\1+1}\2"),
    (rf"{_PIXEL}\.input_proj\.(\d+)\.([01]){_END}", r"pixel_decoder.input_projections.\1.\2\3"),
    (rf"{_PIXEL}\.transformer\.level_embed", r"pixel_decoder.level_embed"),
    (rf"{_ENCODER_LAYER}\.self_attn\.(\w+){_END}", r"pixel_decoder.layers.\1.self_attn.\2\3"),
    (rf"{_ENCODER_LAYER}\.norm1{_END}", r"pixel_decoder.layers.\1.self_attn_norm\2"),
    (rf"{_ENCODER_LAYER}\.linear([12]){_END}", r"pixel_decoder.layers.\1.ffn.fc\2\3"),
    (rf"{_ENCODER_LAYER}\.norm2{_END}", r"pixel_decoder.layers.\1.ffn_norm\2"),
    (rf"{_PIXEL}\.mask_features{_END}", r"pixel_decoder.mask_projection\1"),
    (rf"{_PIXEL}\.adapter_1\.weight", r"pixel_decoder.lateral.0.weight"),
    (rf"{_PIXEL}\.adapter_1\.norm{_END}", r"pixel_decoder.lateral.1\1"),
    (rf"{_PIXEL}\.layer_1\.weight", r"pixel_decoder.output.0.weight"),
    (rf"{_PIXEL}\.layer_1\.norm{_END}", r"pixel_decoder.output.1\1"),
]
_DECODER: list[tuple[str, str]] = [
    (rf"{_DECODER_LAYER}\.self_attn\.(in_proj_weight|in_proj_bias)", r"query_decoder.layers.\1.self_attn.\2"),
    (rf"{_DECODER_LAYER}\.self_attn\.out_proj{_END}", r"query_decoder.layers.\1.self_attn.out_proj\2"),
    (rf"{_DECODER_LAYER}\.norm2{_END}", r"query_decoder.layers.\1.self_attn_norm\2"),
    (rf"{_DECODER_LAYER}\.cross_attn\.(\w+){_END}", r"query_decoder.layers.\1.cross_attn.\2\3"),
    (rf"{_DECODER_LAYER}\.norm1{_END}", r"query_decoder.layers.\1.cross_attn_norm\2"),
    (rf"{_DECODER_LAYER}\.linear([12]){_END}", r"query_decoder.layers.\1.ffn.fc\2\3"),
    (rf"{_DECODER_LAYER}\.norm3{_END}", r"query_decoder.layers.\1.ffn_norm\2"),
    (rf"{_PREDICTOR}\.decoder\.ref_point_head\.(layers\.\d+){_END}", r"query_decoder.position_head.\1\2"),
    # One tensor under several names: the box head of every layer, and the decoder's norm.
    (rf"{_PREDICTOR}\.(?:decoder_norm|decoder\.norm){_END}", r"query_decoder.norm\1"),
    (
        rf"{_PREDICTOR}\.(?:_bbox_embed|bbox_embed\.\d+|decoder\.bbox_embed\.\d+)\.(layers\.\d+){_END}",
        r"query_decoder.box_head.\1\2",
    ),
    (rf"{_PREDICTOR}\.mask_embed\.(layers\.\d+){_END}", r"mask_head.\1\2"),
]
_GROUNDER_ONLY: list[tuple[str, str]] = [
    (rf"{_PREDICTOR}\.enc_output{_END}", r"query_selection.projection\1"),
    (rf"{_PREDICTOR}\.enc_output_norm{_END}", r"query_selection.norm\1"),
    (rf"{_PREDICTOR}\.class_embed", r"similarity_head.projection"),
    (rf"{_PREDICTOR}\.logit_scale", r"similarity_head.logit_scale"),
]
_PROMPT_ENCODER_ONLY: list[tuple[str, str]] = [
    (rf"{_PREDICTOR}\.label_enc\.weight", r"label_embed.weight"),
    (rf"{_PREDICTOR}\.pb_embedding\.weight", r"type_embed.weight"),
    (rf"{_PREDICTOR}\.mask_tokens\.weight", r"mask_tokens.weight"),
    (rf"{_PREDICTOR}\.iou_prediction_head\.(layers\.\d+){_END}", r"iou_head.\1\2"),
    (rf"obj_projector{_END}", r"region_projection\1"),
]

# Buffers that are recomputed, and weights that no output depends on.
_IGNORED = [
    r"backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index",
    r"backbone\.layers\.\d+\.blocks\.\d+\.attn_mask",
    r"criterion\.empty_weight",
    r"pixel_(?:mean|std)",
    rf"{_PREDICTOR}\.lang_mapper",  # denoising, never run
]
_IGNORED_IN_PROMPT_ENCODER = [
    rf"{_PREDICTOR}\.class_embed(?:_part)?",  # class heads are off
    r"logit_scale",
]

GROUNDER_RENAMES = _IMAGE_SIDE + _DECODER + _GROUNDER_ONLY
PROMPT_ENCODER_RENAMES = _IMAGE_SIDE + _DECODER + _PROMPT_ENCODER_ONLY
GROUNDER_IGNORED = _IGNORED
PROMPT_ENCODER_IGNORED = _IGNORED + _IGNORED_IN_PROMPT_ENCODER


def rename_key(key: str, renames: Iterable[tuple[str, str]], ignored: Iterable[str]) -> str | None:
    """Our name of an original key, None if it is ignorable; `{qkv}` in it stands for three tensors in one.

    Raises:
        CheckpointError: if the key is neither.
    """
    if any(re.fullmatch(pattern, key) for pattern in ignored):
        return None
    for pattern, template in renames:
        if match := re.fullmatch(pattern, key):
            name = match.expand(template)
            return re.sub(r"\{(\d+)\+1\}", lambda found: str(int(found.group(1)) + 1), name)
    raise CheckpointError(f"unknown key `{key}` in the original checkpoint: it has no counterpart and is not ignorable")


def rename_state(
    state: Mapping[str, Tensor], renames: list[tuple[str, str]], ignored: list[str], prefix: str = ""
) -> dict[str, Tensor]:
    """The original's tensors under our names.

    Keys may carry `prefix` (the whole checkpoint) or not (one module's file); either all or none.

    Raises:
        CheckpointError: if a key is unknown, or two names of one tensor hold different values.
    """
    strip: Callable[[str], str] = lambda key: key.removeprefix(prefix)  # noqa: E731
    renamed: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    for key, tensor in state.items():
        name = rename_key(strip(key), renames, ignored)
        if name is None:
            continue
        for part_name, part in _split(name, tensor):
            if part_name not in renamed:
                renamed[part_name], source[part_name] = part, key
            elif not torch.equal(renamed[part_name], part):
                raise CheckpointError(
                    f"`{source[part_name]}` and `{key}` name one shared tensor but hold different values"
                )
    return renamed


def _split(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if "{qkv}" not in name:
        return [(name, tensor)]
    return [(name.replace("{qkv}", letter), part) for letter, part in zip("qkv", tensor.chunk(3), strict=True)]
