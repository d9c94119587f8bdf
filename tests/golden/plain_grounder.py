"""The original's grounding model once more, written down plainly from its description, and recordings made with it.

Weights are a dictionary under the original's names, layers are functions, samples are taken by `grid_sample`, queries
attend by torch's own attention: nothing is shared with the model but the backbone, which is transformers'. Of any size,
to hold the model to sizes for which the original left no numbers.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from llava_grounding.model.backbone import Backbone

Weights = dict[str, Tensor]
Json = dict[str, Any]
HEADS, POINTS, GROUPS = 8, 4, 32
PIXEL, PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
WINDOW = 4


def small_config(
    width: int = 32,
    mask_width: int | None = None,
    phrase_width: int = 40,
    levels: int = 4,
    encoder_layers: int = 2,
    decoder_layers: int = 2,
    ffn: int = 48,
    queries: int = 11,
    tokens: int = 3,
) -> Json:
    """The part of the original's configuration that a model is built from."""
    swin = {
        "EMBED_DIM": 8,
        "DEPTHS": [1, 2, 1, 1],
        "NUM_HEADS": [1, 2, 2, 4],
        "WINDOW_SIZE": WINDOW,
        "PATCH_SIZE": 4,
        "MLP_RATIO": 2.0,
        "QKV_BIAS": True,
        "DROP_PATH_RATE": 0.0,
    }
    encoder = {
        "CONVS_DIM": width,
        "MASK_DIM": mask_width or width,
        "TOTAL_NUM_FEATURE_LEVELS": levels,
        "TRANSFORMER_ENC_LAYERS": encoder_layers,
    }
    decoder = {
        "HIDDEN_DIM": width,
        "DIM_FEEDFORWARD": ffn,
        "DEC_LAYERS": decoder_layers,
        "NUM_OBJECT_QUERIES": queries,
        "TOTAL_NUM_FEATURE_LEVELS": levels,
        "NUM_INTERACTIVE_TOKENS": tokens,
        "NHEADS": 4,  # not what the original uses
    }
    return {
        "INPUT": {"PIXEL_MEAN": [120.0, 110.0, 100.0], "PIXEL_STD": [50.0, 60.0, 70.0]},
        "MODEL": {
            "BACKBONE": {"SWIN": swin},
            "ENCODER": encoder,
            "DECODER": decoder,
            "DIM_PROJ": phrase_width,
        },
        "OBJ_PROJECTOR": {"in": width, "out": phrase_width},
    }


def random_weights(config: Json, seed: int = 0, prompts: bool = False) -> Weights:
    """Weights of every layer, strong enough that each changes what comes out; `prompts`: of the prompt encoder."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    model = config["MODEL"]
    width, ffn = model["DECODER"]["HIDDEN_DIM"], model["DECODER"]["DIM_FEEDFORWARD"]
    levels = model["ENCODER"]["TOTAL_NUM_FEATURE_LEVELS"]

    def tensor(name: str, *shape: int, scale: float | None = None) -> None:
        scale = (math.prod(shape[1:]) or 1) ** -0.5 if scale is None else scale
        weights[name] = torch.randn(shape, generator=generator) * scale

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        tensor(f"{name}.weight", rows, columns)
        if bias:
            tensor(f"{name}.bias", rows, scale=0.2)

    def norm(name: str, size: int) -> None:
        tensor(f"{name}.weight", size, scale=0.2)
        weights[f"{name}.weight"] += 1
        tensor(f"{name}.bias", size, scale=0.2)

    def conv(name: str, rows: int, columns: int, kernel: int, bias: bool = True) -> None:
        tensor(f"{name}.weight", rows, columns, kernel, kernel)
        if bias:
            tensor(f"{name}.bias", rows, scale=0.2)

    def deformable(name: str) -> None:
        linear(f"{name}.sampling_offsets", HEADS * levels * POINTS * 2, width)
        linear(f"{name}.attention_weights", HEADS * levels * POINTS, width)
        linear(f"{name}.value_proj", width, width)
        linear(f"{name}.output_proj", width, width)

    def mlp(name: str, *sizes: int) -> None:
        for index, (columns, rows) in enumerate(pairwise(sizes)):
            linear(f"{name}.layers.{index}", rows, columns)

    swin = model["BACKBONE"]["SWIN"]
    channels = [swin["EMBED_DIM"] * 2**stage for stage in range(4)]
    conv("backbone.patch_embed.proj", channels[0], 3, 4)
    norm("backbone.patch_embed.norm", channels[0])
    for stage, (size, depth, heads) in enumerate(zip(channels, swin["DEPTHS"], swin["NUM_HEADS"], strict=True)):
        for number in range(depth):
            block = f"backbone.layers.{stage}.blocks.{number}"
            norm(f"{block}.norm1", size)
            norm(f"{block}.norm2", size)
            tensor(f"{block}.attn.relative_position_bias_table", (2 * WINDOW - 1) ** 2, heads, scale=0.2)
            linear(f"{block}.attn.qkv", 3 * size, size)
            linear(f"{block}.attn.proj", size, size)
            linear(f"{block}.mlp.fc1", int(swin["MLP_RATIO"] * size), size)
            linear(f"{block}.mlp.fc2", size, int(swin["MLP_RATIO"] * size))
        if stage < 3:
            linear(f"backbone.layers.{stage}.downsample.reduction", 2 * size, 4 * size, bias=False)
            norm(f"backbone.layers.{stage}.downsample.norm", 4 * size)
        norm(f"backbone.norm{stage}", size)
    for level in range(levels):
        source = channels[min(level + 1, 3)] if level < 4 else width
        conv(f"{PIXEL}input_proj.{level}.0", width, source, 1 if level < 3 else 3)
        norm(f"{PIXEL}input_proj.{level}.1", width)
    tensor(f"{PIXEL}transformer.level_embed", levels, width, scale=1.0)
    for number in range(model["ENCODER"]["TRANSFORMER_ENC_LAYERS"]):
        layer = f"{PIXEL}transformer.encoder.layers.{number}"
        deformable(f"{layer}.self_attn")
        linear(f"{layer}.linear1", ffn, width)
        linear(f"{layer}.linear2", width, ffn)
        norm(f"{layer}.norm1", width)
        norm(f"{layer}.norm2", width)
    conv(f"{PIXEL}adapter_1", width, channels[0], 1, bias=False)
    norm(f"{PIXEL}adapter_1.norm", width)
    conv(f"{PIXEL}layer_1", width, width, 3, bias=False)
    norm(f"{PIXEL}layer_1.norm", width)
    conv(f"{PIXEL}mask_features", model["ENCODER"]["MASK_DIM"], width, 1)
    if prompts:
        tensor(f"{PREDICTOR}label_enc.weight", 2, width)
        tensor(f"{PREDICTOR}pb_embedding.weight", 2, width)
        tensor(f"{PREDICTOR}mask_tokens.weight", model["DECODER"]["NUM_INTERACTIVE_TOKENS"], width)
        mlp(f"{PREDICTOR}iou_prediction_head", width, width, width, 1)
        linear("obj_projector", model["DIM_PROJ"], width)
    else:
        tensor(f"{PREDICTOR}class_embed", width, model["DIM_PROJ"], scale=0.2)
        weights[f"{PREDICTOR}logit_scale"] = torch.tensor(0.7)
        linear(f"{PREDICTOR}enc_output", width, width)
        norm(f"{PREDICTOR}enc_output_norm", width)
    mlp(f"{PREDICTOR}mask_embed", width, width, width, model["ENCODER"]["MASK_DIM"])
    norm(f"{PREDICTOR}decoder_norm", width)
    mlp(f"{PREDICTOR}decoder.ref_point_head", 2 * width, width, width)
    mlp(f"{PREDICTOR}_bbox_embed", width, width, width, 4)
    for number in range(model["DECODER"]["DEC_LAYERS"]):
        layer = f"{PREDICTOR}decoder.layers.{number}"
        deformable(f"{layer}.cross_attn")
        tensor(f"{layer}.self_attn.in_proj_weight", 3 * width, width)
        tensor(f"{layer}.self_attn.in_proj_bias", 3 * width, scale=0.2)
        linear(f"{layer}.self_attn.out_proj", width, width)
        linear(f"{layer}.linear1", ffn, width)
        linear(f"{layer}.linear2", width, ffn)
        for index in (1, 2, 3):
            norm(f"{layer}.norm{index}", width)
    return weights


def apply_linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def apply_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def apply_group_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    groups = x.unflatten(1, (GROUPS, -1)).flatten(2)
    mean, spread = groups.mean(2, keepdim=True), groups.var(2, unbiased=False, keepdim=True)
    x = ((groups - mean) / (spread + 1e-5).sqrt()).view_as(x)
    return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def apply_mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    count = sum(key.startswith(f"{name}.layers.") and key.endswith(".weight") for key in weights)
    for index in range(count):
        x = apply_linear(weights, f"{name}.layers.{index}", x)
        x = F.relu(x) if index < count - 1 else x
    return x


def sine(positions: Tensor, size: int) -> Tensor:
    """Positions already times two pi."""
    steps = torch.tensor([10000 ** (2 * (index // 2) / size) for index in range(size)])
    angles = positions[..., None] / steps
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def attend(
    weights: Weights, name: str, query: Tensor, references: Tensor, memory: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Multi-scale deformable attention; references [1, Q, 2 or 4]."""
    batch, cells, width = memory.shape
    value = apply_linear(weights, f"{name}.value_proj", memory).view(batch, cells, HEADS, width // HEADS)
    shape = (batch, query.shape[1], HEADS, len(sizes), POINTS)
    offsets = apply_linear(weights, f"{name}.sampling_offsets", query).view(*shape, 2)
    shares = apply_linear(weights, f"{name}.attention_weights", query).view(*shape[:3], -1).softmax(-1).view(shape)
    mixed, start = torch.zeros(batch, query.shape[1], width), 0
    for level, (height, side) in enumerate(sizes):
        offset, centre = offsets[:, :, :, level], references[:, :, None, None, :2]
        if references.shape[-1] == 2:
            places = centre + offset / torch.tensor([side, height])
        else:
            places = centre + offset / POINTS * references[:, :, None, None, 2:] * 0.5
        part = value[:, start : start + height * side].view(batch, height, side, HEADS, -1)
        start += height * side
        for head in range(HEADS):
            feature_map = part[..., head, :].permute(0, 3, 1, 2)
            taken = F.grid_sample(feature_map, 2 * places[:, :, head] - 1, align_corners=False)  # [B, d, Q, points]
            taken = (taken * shares[:, None, :, head, level]).sum(-1).transpose(1, 2)
            mixed[..., head * (width // HEADS) : (head + 1) * (width // HEADS)] += taken
    return apply_linear(weights, f"{name}.output_proj", mixed)


def centres(size: tuple[int, int]) -> Tensor:
    rows, columns = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    y, x = torch.meshgrid(rows / size[0], columns / size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2)


def encode(weights: Weights, maps: list[Tensor], layers: int) -> tuple[list[Tensor], Tensor]:
    """The pixel decoder: levels fine to coarse, and mask features."""
    levels = sum(key.startswith(f"{PIXEL}input_proj.") and key.endswith("0.weight") for key in weights)
    sources: list[Tensor] = []
    for level in range(levels):
        name = f"{PIXEL}input_proj.{level}"
        source = maps[level + 1] if level < 3 else (maps[3] if level == 3 else sources[-1])
        stride = {"stride": 2, "padding": 1} if level >= 3 else {}
        projected = F.conv2d(source, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], **stride)
        sources.append(apply_group_norm(weights, f"{name}.1", projected))
    width = sources[0].shape[1]
    sizes = [(source.shape[2], source.shape[3]) for source in sources]
    positions = []
    for level, (height, side) in enumerate(sizes):
        y = (torch.arange(height) + 1.0) / (height + 1e-6) * 2 * math.pi
        x = (torch.arange(side) + 1.0) / (side + 1e-6) * 2 * math.pi
        codes = [sine(y, width // 2)[:, None].expand(-1, side, -1), sine(x, width // 2)[None].expand(height, -1, -1)]
        positions.append(torch.cat(codes, -1).reshape(-1, width) + weights[f"{PIXEL}transformer.level_embed"][level])
    position, references = torch.cat(positions)[None], torch.cat([centres(size) for size in sizes])[None]
    x = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], dim=1)
    for number in range(layers):
        layer = f"{PIXEL}transformer.encoder.layers.{number}"
        attended = attend(weights, f"{layer}.self_attn", x + position, references, x, sizes)
        x = apply_norm(weights, f"{layer}.norm1", x + attended)
        hidden = F.relu(apply_linear(weights, f"{layer}.linear1", x))
        x = apply_norm(weights, f"{layer}.norm2", x + apply_linear(weights, f"{layer}.linear2", hidden))
    parts = x.split([height * side for height, side in sizes], dim=1)
    fused = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
    lateral = apply_group_norm(
        weights, f"{PIXEL}adapter_1.norm", F.conv2d(maps[0], weights[f"{PIXEL}adapter_1.weight"])
    )
    lateral = lateral + F.interpolate(fused[0], size=lateral.shape[2:], mode="bilinear", align_corners=False)
    smooth = F.conv2d(lateral, weights[f"{PIXEL}layer_1.weight"], padding=1)
    smooth = F.relu(apply_group_norm(weights, f"{PIXEL}layer_1.norm", smooth))
    return fused, F.conv2d(smooth, weights[f"{PIXEL}mask_features.weight"], weights[f"{PIXEL}mask_features.bias"])


def similarity(weights: Weights, states: Tensor, phrases: Tensor, mask: Tensor) -> Tensor:
    projected = states @ weights[f"{PREDICTOR}class_embed"]
    unit = projected / (projected.norm(dim=-1, keepdim=True) + 1e-7)
    logits = weights[f"{PREDICTOR}logit_scale"].exp() * unit @ phrases.transpose(1, 2)
    return logits.masked_fill(~mask[:, None], -100.0)


def unsigmoid(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def memory_of(levels: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
    """Cells coarse to fine, sizes, and anchors in logit space."""
    coarse = levels[::-1]
    sizes = [(level.shape[2], level.shape[3]) for level in coarse]
    anchors = [
        torch.cat([centres(size), torch.full((size[0] * size[1], 2), 0.05 * 2**number)], dim=1)
        for number, size in enumerate(sizes)
    ]
    anchor = torch.cat(anchors)
    valid = ((anchor > 0.01) & (anchor < 0.99)).all(1, keepdim=True)
    logits = (anchor / (1 - anchor)).log().masked_fill(~valid, torch.inf)
    return torch.cat([level.flatten(2).transpose(1, 2) for level in coarse], dim=1), sizes, logits[None]


def decode(
    weights: Weights,
    layers: int,
    states: Tensor,
    references: Tensor,
    memory: Tensor,
    sizes: list[tuple[int, int]],
    twice: bool = False,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Per layer the normalised states and its boxes; references before and after every layer.

    Args:
        twice: boxes are read from states that are normalised once more, as in the prompt encoder.
    """
    width = states.shape[2]
    hidden, boxes, all_references = [], [], [references]
    for number in range(layers):
        layer = f"{PREDICTOR}decoder.layers.{number}"
        code = [sine(references[..., axis] * 2 * math.pi, width // 2) for axis in (1, 0, 2, 3)]
        position = apply_mlp(weights, f"{PREDICTOR}decoder.ref_point_head", torch.cat(code, dim=-1))
        query = (states + position).transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            query,
            query,
            states.transpose(0, 1),
            width,
            HEADS,
            weights[f"{layer}.self_attn.in_proj_weight"],
            weights[f"{layer}.self_attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            weights[f"{layer}.self_attn.out_proj.weight"],
            weights[f"{layer}.self_attn.out_proj.bias"],
        )
        states = apply_norm(weights, f"{layer}.norm2", states + attended.transpose(0, 1))
        attended = attend(weights, f"{layer}.cross_attn", states + position, references, memory, sizes)
        states = apply_norm(weights, f"{layer}.norm1", states + attended)
        inner = F.relu(apply_linear(weights, f"{layer}.linear1", states))
        states = apply_norm(weights, f"{layer}.norm3", states + apply_linear(weights, f"{layer}.linear2", inner))
        normal = apply_norm(weights, f"{PREDICTOR}decoder_norm", states)
        before = unsigmoid(references)
        read = apply_norm(weights, f"{PREDICTOR}decoder_norm", normal) if twice else normal
        boxes.append((apply_mlp(weights, f"{PREDICTOR}_bbox_embed", read) + before).sigmoid())
        references = (apply_mlp(weights, f"{PREDICTOR}_bbox_embed", states) + before).sigmoid()
        hidden.append(normal)
        all_references.append(references)
    return hidden, boxes, all_references


def ground(
    weights: Weights, config: Json, levels: list[Tensor], features: Tensor, phrases: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """What depends on phrases, under the names of a recording; discrete choices are left to the caller."""
    decoder = config["MODEL"]["DECODER"]
    memory, sizes, anchors = memory_of(levels)
    invalid = anchors.isinf().any(-1)
    cells = apply_linear(weights, f"{PREDICTOR}enc_output", memory.masked_fill(invalid[..., None], 0.0))
    cells = apply_norm(weights, f"{PREDICTOR}enc_output_norm", cells)
    logits = similarity(weights, cells, phrases, mask).masked_fill(invalid[..., None], -torch.inf)
    coordinates = apply_mlp(weights, f"{PREDICTOR}_bbox_embed", cells) + anchors
    indices = logits.amax(-1).topk(decoder["NUM_OBJECT_QUERIES"], dim=1).indices
    states, references = cells[:, indices[0]], coordinates[:, indices[0]]
    hidden, boxes, all_references = decode(weights, decoder["DEC_LAYERS"], states, references.sigmoid(), memory, sizes)
    again = [apply_norm(weights, f"{PREDICTOR}decoder_norm", state) for state in (states, *hidden)]
    predicted = [similarity(weights, state, phrases, mask) for state in again]

    def masks(state: Tensor) -> Tensor:
        return torch.einsum("bqc,bchw->bqhw", apply_mlp(weights, f"{PREDICTOR}mask_embed", state), features)

    all_boxes = [references.sigmoid(), *boxes]
    return {
        "two_stage.class_logits": logits,
        "two_stage.topk_indices": indices,
        "two_stage.tgt": states,
        "two_stage.refpoint_unsigmoid": references,
        "two_stage.pred_logits": predicted[0],
        "two_stage.pred_boxes": references.sigmoid(),
        "two_stage.pred_masks": masks(again[0]),
        **{f"decoder.hs.{index}": value for index, value in enumerate(hidden)},
        **{f"decoder.reference.{index}": value for index, value in enumerate(all_references)},
        **{f"pred.{index}.logits": value for index, value in enumerate(predicted)},
        **{f"pred.{index}.boxes": value for index, value in enumerate(all_boxes)},
        "out.pred_logits": predicted[-1],
        "out.pred_boxes": all_boxes[-1],
        "out.pred_masks": masks(again[-1]),
        "out.match_prob": predicted[-1][0].softmax(0),
    }


def regions(case: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """What each phrase keeps, with the original's stand-ins for nothing."""
    found: dict[str, Tensor] = {}
    for phrase, scores in enumerate(case["out.match_prob"].unbind(1)):
        kept = (scores > threshold).nonzero()[:, 0]
        cxcywh = case["out.pred_boxes"][0, kept]
        corners = torch.cat([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], dim=1)
        masks = (case["out.pred_masks"][0, kept] > 0).to(torch.uint8)
        found[f"out.matched_index.{phrase}"] = kept
        found[f"out.boxes.{phrase}"] = corners if len(kept) else torch.zeros(1, 4)
        found[f"out.masks.{phrase}"] = masks if len(kept) else torch.zeros(1, 256, 256)
    return found


def padded(picture: Tensor, config: Json) -> Tensor:
    """What the backbone receives."""
    means, deviations = (torch.tensor(config["INPUT"][f"PIXEL_{name}"])[:, None, None] for name in ("MEAN", "STD"))
    height, side = picture.shape[1:]
    return F.pad((picture - means) / deviations, (0, -side % 32, 0, -height % 32))[None]


def image_features(maps: list[Tensor], levels: list[Tensor], features: Tensor) -> dict[str, Tensor]:
    return {
        **{f"backbone.res{index + 2}": value for index, value in enumerate(maps)},
        **{f"pixel_decoder.multi_scale.{index}": level for index, level in enumerate(levels)},
        "pixel_decoder.mask_features": features,
    }


def write(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, folder / name)


def write_group(folder: Path, config: Json, weights: Weights, cases: list[Json]) -> None:
    write(folder, "weights.safetensors", weights)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "cases.json").write_text(json.dumps({"cases": cases}))


@torch.no_grad()
def record_prompts(
    folder: Path,
    config: Json,
    backbone: Backbone,
    weights: Weights,
    cases: list[tuple[tuple[int, int], list[int]]],
    seed: int = 0,
) -> None:
    """Write a folder of group B.

    Args:
        backbone: with these weights.
        cases: height and width of the picture, and the type of every prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    listed = []
    decoder = config["MODEL"]["DECODER"]
    tokens = decoder["NUM_INTERACTIVE_TOKENS"]
    for number, ((height, side), types) in enumerate(cases):
        picture = torch.randint(0, 256, (3, height, side), generator=generator, dtype=torch.uint8)
        pixels = padded(picture, config)
        maps = backbone(pixels)
        levels, features = encode(weights, maps, config["MODEL"]["ENCODER"]["TRANSFORMER_ENC_LAYERS"])
        memory, sizes, _ = memory_of(levels)
        prompts = torch.rand(len(types), 4, generator=generator) * 0.4 + 0.2
        rescaled = prompts * torch.tensor([side / pixels.shape[3], height / pixels.shape[2]] * 2)
        kinds = weights[f"{PREDICTOR}label_enc.weight"][0] + weights[f"{PREDICTOR}pb_embedding.weight"][types]
        content = (kinds[:, None] + weights[f"{PREDICTOR}mask_tokens.weight"]).flatten(0, 1)[None]
        before = unsigmoid(rescaled).repeat_interleave(tokens, 0)[None]
        hidden, boxes, references = decode(
            weights, decoder["DEC_LAYERS"], content, before.sigmoid(), memory, sizes, twice=True
        )
        again = [apply_norm(weights, f"{PREDICTOR}decoder_norm", state) for state in hidden]
        ious = [apply_mlp(weights, f"{PREDICTOR}iou_prediction_head", state).view(1, -1, tokens) for state in again]
        masks = torch.einsum("bqc,bchw->bqhw", apply_mlp(weights, f"{PREDICTOR}mask_embed", again[-1]), features)
        large = F.interpolate(masks[:, ::tokens], size=pixels.shape[2:], mode="bilinear", align_corners=False)
        case = {
            "in.points": prompts,
            "in.prompt_type": torch.tensor(types, dtype=torch.float32),
            "points_rescaled_to_padded": rescaled,
            "query.content": content,
            "query.reference_unsigmoid": before,
            **{f"decoder.hs.{index}": value for index, value in enumerate(hidden)},
            **{f"decoder.reference.{index}": value for index, value in enumerate(references)},
            **{f"pred_aux.{index}.boxes": value for index, value in enumerate(boxes[:-1])},
            **{f"pred_aux.{index}.ious": value for index, value in enumerate(ious[:-1])},
            "pred.boxes": boxes[-1],
            "pred.ious": ious[-1],
            "pred.masks": masks,
            "pred.obj_features": again[-1],
            "out.ious": ious[-1],
            "out.masks": large[0, :, :height, :side],
            "out.llm_features": apply_linear(weights, "obj_projector", again[-1][0, ::tokens]),
        }
        files = {"file": f"case{number}.safetensors", "image_file": f"image{number}.safetensors"}
        write(folder, files["file"], case)
        write(folder, files["image_file"], {"in.image_uint8": picture, **image_features(maps, levels, features)})
        listed.append({**files, "height": height, "width": side, "prompts": len(types)})
    write_group(folder, config, weights, listed)


@torch.no_grad()
def record(
    folder: Path,
    config: Json,
    backbone: Backbone,
    weights: Weights,
    cases: list[tuple[tuple[int, int], int, int | None]],
    seed: int = 0,
) -> None:
    """Write a folder of group A.

    Args:
        backbone: with these weights.
        cases: height and width of the picture, number of phrases, and which phrase is masked.
    """
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    listed = []
    for number, ((height, side), count, masked) in enumerate(cases):
        picture = torch.randint(0, 256, (3, height, side), generator=generator, dtype=torch.uint8)
        pixels = padded(picture, config)
        maps = backbone(pixels)
        levels, features = encode(weights, maps, config["MODEL"]["ENCODER"]["TRANSFORMER_ENC_LAYERS"])
        memory, sizes, anchors = memory_of(levels)
        cells = memory.masked_fill(anchors.isinf().any(-1, keepdim=True), 0.0)
        cells = apply_linear(weights, f"{PREDICTOR}enc_output", cells)
        cells = apply_norm(weights, f"{PREDICTOR}enc_output_norm", cells)
        image = {
            "in.image_uint8": picture,
            "image_normalized_padded": pixels,
            **image_features(maps, levels, features),
            "two_stage.spatial_shapes": torch.tensor(sizes),
            "two_stage.valid_ratios": torch.ones(1, len(sizes), 2),
            "two_stage.src_flatten": memory,
            "two_stage.output_proposals": anchors,
            "two_stage.output_memory": cells,
            "two_stage.enc_coord_unsigmoid": apply_mlp(weights, f"{PREDICTOR}_bbox_embed", cells) + anchors,
        }
        phrases = torch.randn(1, count, config["MODEL"]["DIM_PROJ"], generator=generator) * 2
        mask = torch.ones(1, count, dtype=torch.bool)
        if masked is not None:
            mask[0, masked] = False
        found = ground(weights, config, levels, features, phrases, mask)
        scores = found["out.match_prob"].flatten().sort(descending=True).values
        gaps = scores[:-1] - scores[1:]
        widest = int(gaps[: max(1, len(scores) // 2)].argmax())
        threshold = float((scores[widest] + scores[widest + 1]) / 2)
        case = {"in.text_embeddings": phrases, "in.text_mask": mask.to(torch.uint8), **found}
        case |= regions(found, threshold)
        files = {"file": f"case{number}.safetensors", "image_file": f"image{number}.safetensors"}
        write(folder, files["file"], case)
        write(folder, files["image_file"], image)
        listed.append({**files, "height": height, "width": side, "phrases": count, "matching_threshold": threshold})
    write_group(folder, config, weights, listed)
