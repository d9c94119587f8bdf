"""Group D: training of the grounder; costs, assignments, losses, gradients for fixed batches and phrase embeddings."""

from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from ledger import Ledger, Table, as_recorded
from recording import Json, check_files, load, load_converted, model_input, padded_size_hw, read_cases, read_config
from torch import Tensor

from llava_grounding.convert.keys import GROUNDER_IGNORED, GROUNDER_RENAMES, rename_key
from llava_grounding.convert.official_vision import build_official_grounder, convert_grounder_state
from llava_grounding.geometry import box_xyxy_to_cxcywh
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.outputs import GrounderOutput, mask_logits_from
from llava_grounding.train.batching.targets import GroundingTarget
from llava_grounding.train.losses.matcher import HungarianMatcher
from llava_grounding.train.losses.set_criterion import CriterionResult, SetCriterion, loss_key, named_predictions
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts

TABLE = Table(
    compared={
        "targets.boxes_cxcywh.{i}": "P",
        "net.*.logits": "L",
        "net.*.boxes": "F",
        "net.*.masks": "L",
        "rand.*": "E",
        "match.*.cost": "L",
        "match.*.query": "E",
        "match.*.target": "E",
        "loss_unweighted.*": "S",
        "loss_weighted.*": "S",
        "loss_total": "S",
        "grad.*": "G",
        "grad_norms.*": "G",
        "num_masks_normaliser": "E",
        "weight_dict.*": "P",
    },
    inputs=("in.image_uint8.{i}", "in.gt_boxes_xyxy_abs.{i}", "in.gt_masks.{i}", "in.text_embeddings", "in.text_mask"),
)
LOSS_NAMES = {
    "loss_class": "loss_mask_cls",
    "loss_mask": "loss_mask_bce",
    "loss_dice": "loss_mask_dice",
    "loss_box": "loss_bbox",
    "loss_giou": "loss_giou",
}
TOP_KEYS = ("in.text_embeddings", "in.text_mask")


def check_group(folder: Path, ledger: Ledger) -> None:
    """Compare every case of the folder."""
    config, cases = read_config(folder), read_cases(folder)
    own = {"weights.safetensors"} if (folder / "weights.safetensors").exists() else set()
    if not check_files(folder, ledger, {"config.json", "cases.json"} | own | {case["file"] for case in cases}):
        return
    weights = (folder if own else folder.parent / "A_grounding") / "weights.safetensors"
    if not weights.exists():
        ledger.problems.append(
            f"no weights: this group was recorded with those of group A, expected at {weights} or beside cases.json"
        )
        return
    state = convert_grounder_state(load(weights.parent, weights.name))
    grounder = load_converted(build_official_grounder(config), state)
    assert isinstance(grounder, Grounder)
    for case in cases:
        recorded = load(folder, case["file"])
        per_image = ("in.image_uint8", "in.gt_boxes_xyxy_abs", *(("in.gt_masks",) if has_masks(case) else ()))
        images = range(len(case["labels_per_object"]))
        needed = [*TOP_KEYS, *(f"{name}.{image}" for name in per_image for image in images)]
        if ledger.require(recorded, needed, case["file"]):
            ours = run_case(grounder, recorded, case, config)
            ledger.compare_file(case["file"], recorded | _recorded_numbers(case), ours, TABLE)
            _check_names(case, ours, ledger)


def has_masks(case: Json) -> bool:
    """Whether the case has mask costs and losses; the original's task `det` has none."""
    return case["task"] != "det"


def run_case(grounder: Grounder, recorded: dict[str, Tensor], case: Json, config: Json) -> dict[str, Tensor]:
    """One training step without the optimizer, under the names of the recording."""
    grounder.zero_grad(set_to_none=True)
    images = range(len(case["labels_per_object"]))
    pixels = torch.cat([model_input(recorded[f"in.image_uint8.{image}"], config) for image in images])
    phrases = recorded["in.text_embeddings"].clone().requires_grad_()
    phrase_mask = recorded["in.text_mask"].bool()
    output = grounder.ground(grounder.encode_image(pixels), phrases, phrase_mask, with_aux=True)
    targets = [_target(recorded, case, image, config) for image in images]
    points = PointReader(recorded, case["manual_seed"])
    criterion = build_criterion(case, config)
    result = criterion.unweighted(output, targets, phrase_mask, points)
    weighted = criterion.weigh(result.losses)
    weighted["loss"].backward()
    return {
        **{f"targets.boxes_cxcywh.{image}": target.boxes_cxcywh_norm for image, target in enumerate(targets)},
        **_network(output, has_masks(case)),
        **{f"rand.{name}": drawn for name, drawn in points.drawn.items()},
        **_matching(result, output, targets),
        **_losses(criterion, result, output, case["batch_key"]),
        "loss_total": weighted["loss"],
        "num_masks_normaliser": torch.tensor(result.num_objects),
        **_gradients(grounder, phrases, [name for name in recorded if name.startswith("grad.")], case),
    }


class PointReader:
    """Hands out the recorded random points, and draws those that the seed gives at this place of the order."""

    def __init__(self, recorded: dict[str, Tensor], seed: int) -> None:
        self.recorded = recorded
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self.drawn[name] = torch.rand(shape, generator=self.generator)
        return self.recorded.get(f"rand.{name}", self.drawn[name])


def build_criterion(case: Json, config: Json) -> SetCriterion:
    """The original's criterion with the settings of this case."""
    decoder = config["MODEL"]["DECODER"]
    matcher = HungarianMatcher(
        MatchingCosts(
            focal=decoder["COST_CLASS_WEIGHT"],
            mask=decoder["COST_MASK_WEIGHT"],
            dice=decoder["COST_DICE_WEIGHT"],
            box=decoder["COST_BOX_WEIGHT"],
            giou=decoder["COST_GIOU_WEIGHT"],
        ),
        num_points=case["num_points"],
    )
    return SetCriterion(
        matcher,
        {name: case["weight_multiplier"] * decoder[f"{name.upper()}_WEIGHT"] for name in LossWeights().of_phrases},
        num_points=case["num_points"],
        oversample_ratio=decoder["OVERSAMPLE_RATIO"],
        importance_ratio=decoder["IMPORTANCE_SAMPLE_RATIO"],
    )


def _target(recorded: dict[str, Tensor], case: Json, image: int, config: Json) -> GroundingTarget:
    labels = case["labels_per_object"][image]
    phrase_map = torch.zeros(len(labels), recorded["in.text_mask"].shape[1], dtype=torch.bool)
    for row, phrases in enumerate(labels):
        phrase_map[row, phrases] = True
    size_hw = recorded[f"in.image_uint8.{image}"].shape[1:]
    height, width = padded_size_hw(size_hw, config)
    boxes = box_xyxy_to_cxcywh(recorded[f"in.gt_boxes_xyxy_abs.{image}"]) / torch.tensor([width, height]).repeat(2)
    masks = None
    if has_masks(case):
        masks = F.pad(recorded[f"in.gt_masks.{image}"], (0, width - size_hw[1], 0, height - size_hw[0]))
    return GroundingTarget(boxes, masks, torch.full((len(labels),), has_masks(case)), phrase_map)


def _network(output: GrounderOutput, with_masks: bool) -> dict[str, Tensor]:
    ours = {}
    for name, prediction in named_predictions(output).items():
        ours[f"net.{name}.logits"] = prediction.phrase_logits
        ours[f"net.{name}.boxes"] = prediction.boxes_cxcywh_norm
        if with_masks:
            ours[f"net.{name}.masks"] = mask_logits_from(prediction.mask_embeds, output.mask_features)
    return ours


def _matching(result: CriterionResult, output: GrounderOutput, targets: list[GroundingTarget]) -> dict[str, Tensor]:
    ours = {}
    first_rows = [0, *accumulate(len(target) for target in targets)]
    for layer, name in enumerate(named_predictions(output)):
        queries = result.pairs.queries[layer].split(result.pairs.counts)
        rows = result.pairs.targets[layer].split(result.pairs.counts)
        for image, target in enumerate(targets):
            ours[f"match.{name}.{image}.cost"] = result.costs[layer, image, :, : len(target)]
            ours[f"match.{name}.{image}.query"] = queries[image]
            ours[f"match.{name}.{image}.target"] = rows[image] - first_rows[image]
    return ours


def _losses(
    criterion: SetCriterion, result: CriterionResult, output: GrounderOutput, batch_key: str
) -> dict[str, Tensor]:
    """Losses before and after weights, and the weights, under the original's names."""
    weighted = criterion.weigh(result.losses)
    weights = criterion.weigh({key: torch.ones(()) for key in result.losses})
    ours = {}
    for name, theirs in LOSS_NAMES.items():
        for prediction in named_predictions(output):
            key, their_key = loss_key(name, prediction), theirs + suffix(prediction)
            if key in result.losses:
                ours[f"loss_unweighted.{their_key}"] = result.losses[key]
                ours[f"loss_weighted.{batch_key}.{their_key}"] = weighted[key]
                ours[f"weight_dict.{their_key}"] = weights[key]
    return ours


def suffix(prediction: str) -> str:
    """`_0` for the last layer, `_i` for the i-th auxiliary one from 1, `_0_interm` for the first stage."""
    if prediction.startswith("aux"):
        return f"_{int(prediction.removeprefix('aux')) + 1}"
    return "_0_interm" if prediction == "interm" else "_0"


def _gradients(grounder: Grounder, phrases: Tensor, names: list[str], case: Json) -> dict[str, Tensor]:
    parameters = dict(grounder.named_parameters())

    def gradient(key: str) -> Tensor:
        ours = rename_key(key, GROUNDER_RENAMES, GROUNDER_IGNORED)
        if ours is None:  # a weight that nothing depends on
            return torch.zeros(())
        parts = [parameters[ours.replace("{qkv}", letter)] for letter in ("qkv" if "{qkv}" in ours else "-")]
        gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
        return torch.cat(gradients) if len(parts) > 1 else gradients[0]

    ours = {name: gradient(name.removeprefix("grad.")) for name in names if name != "grad.text_embeddings"}
    if phrases.grad is not None:
        ours["grad.text_embeddings"] = phrases.grad
    norms = [*case["grad_norms"], *case["parameters_without_gradient"]]
    return ours | {f"grad_norms.{name}": gradient(name).norm() for name in norms}


def _recorded_numbers(case: Json) -> dict[str, Tensor]:
    """What is recorded in cases.json, as if it were tensors."""
    returned = {name.removeprefix(f"{case['batch_key']}.") for name in case["losses_returned"]}
    return as_recorded(
        {
            **{f"grad_norms.{name}": norm for name, norm in case["grad_norms"].items()},
            **{f"grad_norms.{name}": 0.0 for name in case["parameters_without_gradient"]},
            **{f"weight_dict.{name}": weight for name, weight in case["weight_dict"].items() if name in returned},
            "num_masks_normaliser": case["num_masks_normaliser"],
        }
    )


def _check_names(case: Json, ours: dict[str, Tensor], ledger: Ledger) -> None:
    """Which losses come back, and in which order random points are drawn."""
    prefix = "loss_weighted."
    losses = {name.removeprefix(prefix) for name in ours if name.startswith(prefix)}
    if losses != set(case["losses_returned"]):
        odd = sorted(losses ^ set(case["losses_returned"]))
        ledger.problems.append(f"other losses than recorded in {case['file']}: {', '.join(odd)}")
    if [name for name in ours if name.startswith("rand.")] != case["random_draw_order"]:
        ledger.problems.append(f"random points are drawn in another order than recorded in {case['file']}")
