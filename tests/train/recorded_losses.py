"""Recorded losses of the original, as the arguments that our criterion takes."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction
from llava_grounding.train.batching.targets import GroundingTarget

FOLDER = Path(__file__).parents[1] / "golden" / "D_training"
LOSS_NAMES = {
    "loss_class": "loss_mask_cls",
    "loss_mask": "loss_mask_bce",
    "loss_dice": "loss_mask_dice",
    "loss_box": "loss_bbox",
    "loss_giou": "loss_giou",
}


@dataclass(frozen=True)
class RecordedCase:
    """One loss computation of the original."""

    tensors: dict[str, Tensor]
    settings: dict
    output: GrounderOutput
    targets: list[GroundingTarget]

    @property
    def predictions(self) -> dict[str, GrounderPrediction]:
        aux = {f"aux{index}": value for index, value in enumerate(self.output.aux_outputs)}
        assert self.output.interm is not None
        return {"final": self.output, **aux, "interm": self.output.interm}

    @property
    def phrase_mask(self) -> Tensor:
        return self.tensors["in.text_mask"].bool()

    @property
    def points(self) -> dict[str, Tensor]:
        return {name.removeprefix("rand."): value for name, value in self.tensors.items() if name.startswith("rand.")}

    def points_of(self, prediction: str) -> dict[str, Tensor]:
        """The points of one prediction, as if it were the final one."""
        return {
            name.replace(prediction, "final"): value
            for name, value in self.points.items()
            if name.startswith(f"{prediction}.")
        }


def read_case(name: str) -> RecordedCase:
    """Read a case; mask embeddings and features are made up so that their products are the recorded masks."""
    tensors = load_file(FOLDER / f"{name}.safetensors")
    settings = next(case for case in json.loads((FOLDER / "cases.json").read_text()) if case["name"] == name)
    names = sorted({key.split(".")[1] for key in tensors if key.startswith("net.")})
    queries = tensors["net.final.logits"].shape[1]
    predictions = {}
    for position, prediction in enumerate(names):
        selector = torch.zeros(len(settings["labels_per_object"]), queries, len(names) * queries)
        selector[:, :, position * queries : (position + 1) * queries] = torch.eye(queries)
        predictions[prediction] = GrounderPrediction(
            tensors[f"net.{prediction}.logits"], tensors[f"net.{prediction}.boxes"], selector
        )
    if "net.final.masks" in tensors:
        features = torch.cat([tensors[f"net.{prediction}.masks"] for prediction in names], dim=1)
    else:
        features = torch.zeros(len(settings["labels_per_object"]), len(names) * queries, 2, 2)
    final = predictions["final"]
    output = GrounderOutput(
        final.phrase_logits,
        final.boxes_cxcywh_norm,
        final.mask_embeds,
        queries=final.mask_embeds,
        mask_features=features,
        topk_indices=torch.zeros(final.boxes_cxcywh_norm.shape[:2], dtype=torch.long),
        aux_outputs=tuple(predictions[name] for name in names if name.startswith("aux")),
        interm=predictions["interm"],
    )
    return RecordedCase(tensors, settings, output, _targets(tensors, settings))


def _targets(tensors: dict[str, Tensor], settings: dict) -> list[GroundingTarget]:
    targets = []
    for image, labels in enumerate(settings["labels_per_object"]):
        phrase_map = torch.zeros(len(labels), tensors["in.text_mask"].shape[1], dtype=torch.bool)
        for row, phrases in enumerate(labels):
            phrase_map[row, phrases] = True
        masks = tensors.get(f"in.gt_masks.{image}")
        has_mask = torch.full((len(labels),), masks is not None)
        targets.append(GroundingTarget(tensors[f"targets.boxes_cxcywh.{image}"], masks, has_mask, phrase_map))
    return targets
