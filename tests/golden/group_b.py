"""Group B: inference of the visual-prompt encoder, from pixels and prompts to region embeddings."""

from pathlib import Path

import torch
import torch.nn.functional as F
from group_a import Spy, image_features
from ledger import Ledger, Table
from recording import (
    Json,
    check_files,
    images_of,
    load,
    load_converted,
    model_input,
    padded_size_hw,
    read_cases,
    read_config,
)
from torch import Tensor

from llava_grounding.convert.official_vision import build_official_prompt_encoder, convert_prompt_encoder_state
from llava_grounding.model.heads import inverse_sigmoid
from llava_grounding.model.outputs import ImageMemory, VisualPromptOutput, mask_logits_from
from llava_grounding.model.visual_prompt import VisualPromptEncoder

IMAGE_TABLE = Table(
    compared={"backbone.res{i}": "F", "pixel_decoder.mask_features": "F", "pixel_decoder.multi_scale.{i}": "F"},
    inputs=("in.image_uint8",),
    optional=("backbone.res{i}",),
)
CASE_TABLE = Table(
    compared={
        "points_rescaled_to_padded": "P",
        "query.content": "P",
        "query.reference_unsigmoid": "P",
        "decoder.hs.{i}": "F",
        "decoder.reference.{i}": "F",
        "pred.boxes": "F",
        "pred.ious": "F",
        "pred.masks": "L",
        "pred.obj_features": "F",
        "pred_aux.{i}.boxes": "F",
        "pred_aux.{i}.ious": "F",
        "out.ious": "F",
        "out.masks": "L",
        "out.llm_features": "F",
    },
    inputs=("in.points", "in.prompt_type"),
    optional=("out.masks",),
)


def check_group(folder: Path, ledger: Ledger) -> None:
    """Compare every image and every case of the folder."""
    config, cases = read_config(folder), read_cases(folder)
    files = {"config.json", "cases.json", "weights.safetensors"}
    if not check_files(folder, ledger, files | {case[key] for case in cases for key in ("file", "image_file")}):
        return
    state = convert_prompt_encoder_state(load(folder, "weights.safetensors"))
    encoder = load_converted(build_official_prompt_encoder(config), state)
    assert isinstance(encoder, VisualPromptEncoder)
    memories = {}
    for file, _ in images_of(cases):
        recorded = load(folder, file)
        if ledger.require(recorded, IMAGE_TABLE.inputs, file):
            memories[file], ours = run_image(encoder, recorded["in.image_uint8"], config)
            ledger.compare_file(file, recorded, ours, IMAGE_TABLE)
    for case in cases:
        recorded = load(folder, case["file"])
        if case["image_file"] in memories and ledger.require(recorded, CASE_TABLE.inputs, case["file"]):
            ours = run_case(encoder, memories[case["image_file"]], recorded, (case["height"], case["width"]), config)
            ledger.compare_file(case["file"], recorded, ours, CASE_TABLE)


@torch.no_grad()
def run_image(encoder: VisualPromptEncoder, image_uint8: Tensor, config: Json) -> tuple[ImageMemory, dict[str, Tensor]]:
    """What does not depend on prompts, under the names of the recording."""
    pixels = model_input(image_uint8, config)
    assert encoder.backbone is not None
    memory = encoder.encode_image(pixels)
    return memory, image_features(encoder.backbone(pixels), memory)


@torch.no_grad()
def run_case(
    encoder: VisualPromptEncoder,
    memory: ImageMemory,
    recorded: dict[str, Tensor],
    size_hw: tuple[int, int],
    config: Json,
) -> dict[str, Tensor]:
    """What depends on prompts, under the names of the recording."""
    (height, width), padded_hw = size_hw, padded_size_hw(size_hw, config)
    share = torch.tensor([width / padded_hw[1], height / padded_hw[0]]).repeat(2)
    boxes = recorded["in.points"] * share
    with Spy(encoder.query_decoder) as decoding:
        output = encoder.encode_prompts(
            memory,
            boxes[None],
            recorded["in.prompt_type"].long()[None],
            torch.ones(1, len(boxes), dtype=torch.bool),
            isolate=False,  # the original's inference lets prompts attend to each other
            with_aux=True,
        )
    [steps], [(content, references, *_)] = decoding.results, decoding.arguments
    all_references = [references, *(step.references_out for step in steps)]
    return {
        "points_rescaled_to_padded": boxes,
        "query.content": content,
        "query.reference_unsigmoid": inverse_sigmoid(references),
        **{f"decoder.hs.{index}": step.states for index, step in enumerate(steps)},
        **{f"decoder.reference.{index}": value for index, value in enumerate(all_references)},
        "pred.boxes": output.boxes_cxcywh_norm.flatten(1, 2),
        "pred.ious": output.ious,
        "pred.masks": mask_logits_from(output.mask_embeds.flatten(1, 2), output.mask_features),
        "pred.obj_features": output.queries.flatten(1, 2),
        **{
            f"pred_aux.{index}.boxes": aux.boxes_cxcywh_norm.flatten(1, 2)
            for index, aux in enumerate(output.aux_outputs)
        },
        **{f"pred_aux.{index}.ious": aux.ious for index, aux in enumerate(output.aux_outputs)},
        "out.ious": output.ious,
        "out.masks": _image_masks(output, padded_hw)[:, :height, :width],
        "out.llm_features": output.region_embeds[0],
    }


def _image_masks(output: VisualPromptOutput, padded_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(output.mask_logits, size=padded_hw, mode="bilinear", align_corners=False)[0]
