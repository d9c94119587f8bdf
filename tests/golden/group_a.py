"""Group A: inference of the grounder, from pixels to the regions that each phrase keeps."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ledger import Ledger, Table, as_recorded
from recording import Json, check_files, images_of, load, load_converted, model_input, read_cases, read_config
from torch import Tensor, nn

from llava_grounding.convert.official_vision import build_official_grounder, convert_grounder_state
from llava_grounding.geometry import box_cxcywh_to_xyxy
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.outputs import GrounderOutput, ImageMemory, mask_logits_from
from llava_grounding.processing.selection import SelectionSettings, query_scores, select_regions

IMAGE_TABLE = Table(
    compared={
        "image_normalized_padded": "P",
        "backbone.res{i}": "F",
        "pixel_decoder.mask_features": "F",
        "pixel_decoder.multi_scale.{i}": "F",
        "two_stage.spatial_shapes": "E",
        "two_stage.valid_ratios": "E",
        "two_stage.src_flatten": "F",
        "two_stage.output_proposals": "P",
        "two_stage.output_memory": "F",
        "two_stage.enc_coord_unsigmoid": "F",
    },
    inputs=("in.image_uint8",),
    optional=("backbone.res{i}", "image_normalized_padded", "two_stage.src_flatten"),
)
CASE_TABLE = Table(
    compared={
        "two_stage.class_logits": "L",
        "two_stage.topk_indices": "E",
        "two_stage.tgt": "F",
        "two_stage.refpoint_unsigmoid": "F",
        "two_stage.pred_logits": "L",
        "two_stage.pred_boxes": "F",
        "two_stage.pred_masks": "L",
        "decoder.hs.{i}": "F",
        "decoder.reference.{i}": "F",
        "pred.{i}.logits": "L",
        "pred.{i}.boxes": "F",
        "out.pred_logits": "L",
        "out.pred_boxes": "F",
        "out.pred_masks": "L",
        "out.match_prob": "F",
        "out.matched_index.{i}": "E",
        "out.boxes.{i}": "F",
        "out.masks.{i}": "B",
        "matched_index_at_threshold.*": "E",
    },
    inputs=("in.text_embeddings", "in.text_mask"),
    optional=("two_stage.pred_masks",),
)
NOTHING_FOUND_SIZE = 256
"""The original answers a phrase without any match with one zero box and one zero mask of this side."""


def check_group(folder: Path, ledger: Ledger) -> None:
    """Compare every image and every case of the folder."""
    config, cases = read_config(folder), read_cases(folder)
    files = {"config.json", "cases.json", "weights.safetensors"}
    if not check_files(folder, ledger, files | {case[key] for case in cases for key in ("file", "image_file")}):
        return
    state = convert_grounder_state(load(folder, "weights.safetensors"))
    grounder = load_converted(build_official_grounder(config), state)
    assert isinstance(grounder, Grounder)
    memories = {}
    for file, _ in images_of(cases):
        recorded = load(folder, file)
        if ledger.require(recorded, IMAGE_TABLE.inputs, file):
            memories[file], ours = run_image(grounder, recorded["in.image_uint8"], config)
            ledger.compare_file(file, recorded, ours, IMAGE_TABLE)
    for case in cases:
        recorded = load(folder, case["file"])
        if case["image_file"] in memories and ledger.require(recorded, CASE_TABLE.inputs, case["file"]):
            ours = run_case(grounder, memories[case["image_file"]], recorded, case)
            ledger.compare_file(case["file"], recorded | _recorded_matches(case), ours, CASE_TABLE)


@torch.no_grad()
def run_image(grounder: Grounder, image_uint8: Tensor, config: Json) -> tuple[ImageMemory, dict[str, Tensor]]:
    """What does not depend on phrases, under the names of the recording."""
    pixels = model_input(image_uint8, config)
    maps = grounder.backbone(pixels)
    memory = grounder.encode_image(pixels)
    selection = grounder.query_selection
    proposals, valid = selection.proposals(memory.level_sizes_hw, pixels.device)
    cells = selection.norm(selection.projection(memory.memory.masked_fill(~valid[:, None], 0.0)))
    return memory, {
        "image_normalized_padded": pixels,
        **image_features(maps, memory),
        "two_stage.spatial_shapes": torch.tensor(memory.level_sizes_hw),
        "two_stage.valid_ratios": torch.ones(1, len(memory.level_sizes_hw), 2),  # no padding is ever masked
        "two_stage.src_flatten": memory.memory,
        "two_stage.output_proposals": proposals[None],
        "two_stage.output_memory": cells,
        "two_stage.enc_coord_unsigmoid": grounder.query_decoder.box_head(cells) + proposals,
    }


def image_features(maps: Any, memory: ImageMemory) -> dict[str, Tensor]:
    """Backbone and pixel decoder under the names of the recording."""
    levels = len(memory.level_sizes_hw)
    return {
        **{f"backbone.res{index + 2}": value for index, value in enumerate(maps)},
        "pixel_decoder.mask_features": memory.mask_features,
        **{f"pixel_decoder.multi_scale.{index}": memory.level(levels - 1 - index) for index in range(levels)},
    }


@torch.no_grad()
def run_case(grounder: Grounder, memory: ImageMemory, recorded: dict[str, Tensor], case: Json) -> dict[str, Tensor]:
    """What depends on phrases, under the names of the recording."""
    phrases, mask = recorded["in.text_embeddings"], recorded["in.text_mask"].bool()
    modules = grounder.similarity_head, grounder.query_selection, grounder.query_decoder
    with Spy(modules[0]) as scoring, Spy(modules[1]) as choosing, Spy(modules[2]) as decoding:
        output = grounder.ground(memory, phrases, mask, with_aux=True)
    [selected], [steps] = choosing.results, decoding.results
    proposals, valid = grounder.query_selection.proposals(memory.level_sizes_hw, phrases.device)
    unsigmoid = grounder.query_decoder.box_head(selected.states) + proposals[selected.indices]
    assert output.interm is not None
    references = [selected.boxes_cxcywh_norm, *(step.references_out for step in steps)]
    predictions = [*output.aux_outputs, output]
    return {
        "two_stage.class_logits": scoring.results[0].masked_fill(~valid[:, None], -torch.inf),
        "two_stage.topk_indices": output.topk_indices,
        "two_stage.tgt": selected.states,
        "two_stage.refpoint_unsigmoid": unsigmoid,
        "two_stage.pred_logits": output.interm.phrase_logits,
        "two_stage.pred_boxes": output.interm.boxes_cxcywh_norm,
        "two_stage.pred_masks": mask_logits_from(output.interm.mask_embeds, output.mask_features),
        **{f"decoder.hs.{index}": step.states for index, step in enumerate(steps)},
        **{f"decoder.reference.{index}": value for index, value in enumerate(references)},
        **{f"pred.{index}.logits": value.phrase_logits for index, value in enumerate(predictions)},
        **{f"pred.{index}.boxes": value.boxes_cxcywh_norm for index, value in enumerate(predictions)},
        "out.pred_logits": output.phrase_logits,
        "out.pred_boxes": output.boxes_cxcywh_norm,
        "out.pred_masks": output.mask_logits,
        "out.match_prob": query_scores(output.phrase_logits, "softmax")[0],
        **_regions(output, case["matching_threshold"]),
        **_matches(output, case),
    }


def _regions(output: GrounderOutput, threshold: float) -> dict[str, Tensor]:
    """The regions each phrase keeps, in the original's order and with its stand-ins for nothing."""
    ours: dict[str, Tensor] = {}
    for phrase, kept in enumerate(_select(output, threshold)):
        order = kept.query_index.argsort()
        boxes, masks = box_cxcywh_to_xyxy(kept.boxes_cxcywh_norm[order]), kept.mask_logits[order] > 0
        found = len(order) > 0
        ours[f"out.matched_index.{phrase}"] = torch.from_numpy(kept.query_index[order])
        ours[f"out.boxes.{phrase}"] = torch.from_numpy(boxes) if found else torch.zeros(1, 4)
        ours[f"out.masks.{phrase}"] = (
            torch.from_numpy(masks) if found else torch.zeros(1, NOTHING_FOUND_SIZE, NOTHING_FOUND_SIZE)
        )
    return ours


def _matches(output: GrounderOutput, case: Json) -> dict[str, Tensor]:
    return {
        f"matched_index_at_threshold.{threshold}.{phrase}": torch.from_numpy(kept.query_index).sort().values
        for threshold in case.get("matched_index_at_threshold", {})
        for phrase, kept in enumerate(_select(output, float(threshold)))
    }


def _recorded_matches(case: Json) -> dict[str, Tensor]:
    return as_recorded(
        {
            f"matched_index_at_threshold.{threshold}.{phrase}": queries
            for threshold, phrases in case.get("matched_index_at_threshold", {}).items()
            for phrase, queries in enumerate(phrases)
        }
    )


def _select(output: GrounderOutput, threshold: float) -> list:
    settings = SelectionSettings(score_function="softmax", score_threshold=threshold, nms_iou=None)
    return select_regions(output, 0, output.phrase_logits.shape[2], settings)


@dataclass
class Spy:
    """Keeps what a module takes and gives while the block runs."""

    module: nn.Module
    results: list[Any] = field(default_factory=list)
    arguments: list[tuple[Any, ...]] = field(default_factory=list)

    def __enter__(self) -> "Spy":
        def keep(_: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            self.arguments.append(arguments)
            self.results.append(result)

        self._handle = self.module.register_forward_hook(keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
