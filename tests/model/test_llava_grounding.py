"""The whole model: what must not change its answers, what must, and what comes back from a file."""

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from llava_grounding.errors import ConfigError, ShapeError, UsageError
from llava_grounding.model.builders import set_num_queries
from llava_grounding.model.llava_grounding import (
    ImageFeatures,
    LlavaGroundingForConditionalGeneration,
    RegionPrompts,
)
from llava_grounding.model.outputs import ImageMemory, mask_logits_from
from whole_models import (
    FLAVOURS,
    IMAGE,
    LANGUAGE,
    REGION,
    SEG,
    Inputs,
    batch_texts,
    built,
    example,
    whole_config,
    whole_model,
)

CLOSE = {"atol": 2e-4, "rtol": 1e-3}
"""float32 sums in another order; logits here have a spread of about 10."""
flavours = pytest.mark.parametrize("flavour", list(FLAVOURS))


@pytest.fixture(autouse=True)
def _no_gradient() -> object:
    with torch.no_grad():
        yield


def answers(model: LlavaGroundingForConditionalGeneration, inputs: Inputs) -> dict[str, Tensor]:
    """Logits of the text and everything about the phrases of it."""
    output = model(**inputs.everything())
    assert output.image_features is not None
    embeds, found = model.phrase_states(output.last_hidden_state, inputs.text["input_ids"])
    grounding = model.ground(output.image_features.memory, embeds, found)
    return {
        "logits": output.logits,
        "phrase_logits": grounding.phrase_logits,
        "boxes": grounding.boxes_cxcywh_norm,
        "masks": grounding.mask_logits,
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@flavours
def test_a_saved_and_loaded_model_gives_equal_answers(flavour: str, tmp_path: Path) -> None:
    model, inputs = built(flavour), example(whole_config(flavour))
    model.save_pretrained(tmp_path)
    loaded, report = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert not loaded.training
    assert_same(answers(loaded, inputs), answers(model, inputs), atol=0, rtol=0)
    assert [path.name for path in tmp_path.glob("*.bin")] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("flavour", ["shared", "official"])
def test_half_precision_files_hold_the_rounded_weights(flavour: str, dtype: torch.dtype, tmp_path: Path) -> None:
    config = whole_config(flavour)
    rounded, inputs = whole_model(config), example(config)
    for value in rounded.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.to(dtype))
    wanted = answers(rounded, inputs)
    rounded.to(dtype).save_pretrained(tmp_path)
    loaded = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert_same(answers(loaded, inputs), wanted, atol=0, rtol=0)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds <= {dtype, torch.int64}


@pytest.mark.parametrize(("flavour", "tied"), [("shared", True), ("official", False), ("siglip", True)])
def test_output_layer_is_the_input_embedding_only_where_the_configuration_says_so(
    flavour: str, tied: bool, tmp_path: Path
) -> None:
    built(flavour).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
    for model in (built(flavour), LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path)):
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_language_models_with_other_names_for_their_embedding_work_too(family: str, tied: bool, tmp_path: Path) -> None:
    text_config = {**LANGUAGE[family], "tie_word_embeddings": tied}
    config = whole_config("shared", text_config=text_config, tie_word_embeddings=tied)
    model, inputs = whole_model(config), example(config)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    model.save_pretrained(tmp_path)
    loaded = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path)
    assert_same(answers(loaded, inputs), answers(model, inputs), atol=0, rtol=0)


def test_the_auto_classes_read_a_folder_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    built("shared").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = AutoConfig.from_pretrained(tmp_path)
        model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    assert isinstance(model, LlavaGroundingForConditionalGeneration)
    assert config.grounder_config.to_dict() == built("shared").config.grounder_config.to_dict()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("padding_side", ["right", "left"])
@flavours
def test_a_batch_of_two_answers_like_two_of_one(flavour: str, padding_side: str) -> None:
    model, inputs = built(flavour), example(whole_config(flavour), padding_side)
    together = answers(model, inputs)
    for row, phrases in enumerate((2, 1)):
        alone = answers(model, inputs.row(row))
        here = inputs.text["attention_mask"][row].bool()
        cut = {name: value[row : row + 1] for name, value in together.items()}
        cut["logits"] = cut["logits"][:, here]
        # Phrases pick the queries, so padded phrases must not take part; they are compared where they are real.
        cut["phrase_logits"] = cut["phrase_logits"][:, :, :phrases]
        assert_same(cut, alone, **CLOSE)


@flavours
def test_the_key_value_cache_changes_nothing(flavour: str) -> None:
    model, inputs = built(flavour), example(whole_config(flavour)).row(0)
    whole = model(**inputs.everything())
    ids = inputs.text["input_ids"]
    cut = ids.shape[1] - 5
    read = model(**{**inputs.everything(), "input_ids": ids[:, :cut], "attention_mask": None, "use_cache": True})
    logits = [read.logits]
    for position in range(cut, ids.shape[1]):
        read = model(input_ids=ids[:, position : position + 1], past_key_values=read.past_key_values, use_cache=True)
        logits.append(read.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, **CLOSE)
    assert read.past_key_values.get_seq_length() == ids.shape[1]


@flavours
def test_features_computed_once_serve_like_pixels(flavour: str) -> None:
    model, inputs = built(flavour), example(whole_config(flavour))
    features = model.encode_image(**inputs.images)
    features = model.with_prompt_memory(features, inputs.images["grounder_pixel_values"])
    output = model(**inputs.text, region_prompts=inputs.prompts, image_features=features, use_cache=False)
    assert output.image_features is features
    torch.testing.assert_close(output.logits, model(**inputs.everything()).logits, atol=0, rtol=0)


@flavours
def test_chosen_rows_of_features_are_those_of_the_chosen_images(flavour: str) -> None:
    model, inputs = built(flavour), example(whole_config(flavour))
    features = model.encode_image(**inputs.images)
    chosen = features.rows(torch.tensor([1, 1, 0]))
    assert (chosen.prompt_memory is None) == (features.prompt_memory is None)
    for place, image in enumerate((1, 1, 0)):
        torch.testing.assert_close(chosen.tokens[place], features.tokens[image])
        torch.testing.assert_close(chosen.memory.memory[place], features.memory.memory[image])
        torch.testing.assert_close(chosen.memory.mask_features[place], features.memory.mask_features[image])


def test_prompt_memory_is_kept_or_made_but_not_made_twice() -> None:
    shared = built("shared").encode_image(**example(whole_config("shared")).images)
    assert shared.prompt_memory is shared.memory
    inputs = example(whole_config("official"))
    alone = built("official").encode_image(**inputs.images)
    assert alone.prompt_memory is None
    added = built("official").with_prompt_memory(alone, inputs.images["grounder_pixel_values"])
    assert added.prompt_memory is not None
    assert added.prompt_memory is not alone.memory
    assert built("official").with_prompt_memory(added, inputs.images["grounder_pixel_values"]) is added


def test_prompts_without_anything_to_read_are_refused() -> None:
    model, inputs = built("official"), example(whole_config("official"))
    features = model.encode_image(**inputs.images)
    with pytest.raises(UsageError, match="region_prompts need prompt_memory in image_features, or pixels"):
        model(**inputs.text, region_prompts=inputs.prompts, image_features=features)


def test_a_model_with_a_tower_of_its_own_asks_for_the_pixels_of_it() -> None:
    inputs = example(whole_config("official"))
    with pytest.raises(UsageError, match="pixel_values are needed"):
        built("official").encode_image(inputs.images["grounder_pixel_values"])


@flavours
def test_an_image_takes_as_many_positions_as_the_configuration_says(flavour: str) -> None:
    config = whole_config(flavour)
    features = built(flavour).encode_image(**example(config).images)
    assert features.tokens.shape == (2, config.image_sequence_length, config.text_config.hidden_size)


@flavours
def test_each_image_and_each_prompt_reaches_the_answer_from_its_place_on(flavour: str) -> None:
    model, config = built(flavour), whole_config(flavour)
    inputs, others = example(config), example(config, seed=1)
    logits = model(**inputs.everything()).logits
    first_image = int((inputs.text["input_ids"][0] == IMAGE).int().argmax())
    swapped = Inputs(inputs.text, {name: value.clone() for name, value in inputs.images.items()}, inputs.prompts)
    for name, value in others.images.items():
        swapped.images[name][0] = value[0]
    moved = (model(**swapped.everything()).logits - logits).abs().amax(-1)
    assert moved[0, :first_image].max() == 0
    assert moved[0, first_image:].min() > 1e-4
    assert moved[1].max() == 0

    assert inputs.prompts is not None
    regions = (inputs.text["input_ids"][0] == REGION).nonzero()[:, 0]
    boxes = inputs.prompts.boxes_cxcywh_norm.clone()
    boxes[0, 1] = torch.tensor([0.2, 0.8, 0.1, 0.1])
    prompts = RegionPrompts(boxes, inputs.prompts.types, inputs.prompts.valid, inputs.prompts.coverage)
    output = model(**Inputs(inputs.text, inputs.images, prompts).everything())
    moved = (output.logits - logits).abs().amax(-1)
    # Prompts that see each other change the first region too.
    start = regions[1] if config.visual_prompt_config.isolate_prompts else regions[0]
    assert moved[0, :start].max() == 0
    assert moved[0, regions[1] :].min() > 1e-4
    assert moved[1].max() < 1e-5


@pytest.mark.parametrize("what", ["image", "region"])
def test_wrong_numbers_of_placeholders_are_named_row_by_row(what: str) -> None:
    model, config = built("shared"), whole_config("shared")
    inputs = example(config)
    ids = inputs.text["input_ids"]
    token = IMAGE if what == "image" else REGION
    place = (ids[1] == token).nonzero()[0, 0]
    ids[1, place] = 33
    count = config.image_sequence_length
    numbers = (f"[{count}, {count}]", f"[{count}, {count - 1}]") if what == "image" else ("[2, 1]", "[2, 0]")
    with pytest.raises(ShapeError) as caught:
        model(**inputs.everything())
    assert str(caught.value) == (
        f"each row must have one {what} feature per {what} placeholder, "
        f"got {numbers[0]} features for {numbers[1]} placeholders"
    )


class TestPhraseStates:
    """Hand-made sequences: the hidden state at position t of row b is (b, t)."""

    IDS = torch.tensor([[20, SEG, 21, SEG, 0], [SEG, 22, 23, 24, 25], [26, 27, 28, 29, 30]])

    def states(
        self, phrase_state: str, ids: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[list[list[list[float]]], list[list[bool]]]:
        ids = self.IDS if ids is None else ids
        rows, places = torch.meshgrid(torch.arange(ids.shape[0]), torch.arange(ids.shape[1]), indexing="ij")
        model = built("shared")
        model.config.phrase_state = phrase_state
        try:
            embeds, found = model.phrase_states(torch.stack([rows, places], dim=-1).float(), ids, mask)
        finally:
            model.config.phrase_state = "at_seg"
        return embeds.tolist(), found.tolist()

    def test_at_seg_they_are_the_states_of_the_seg_tokens_in_order(self) -> None:
        embeds, found = self.states("at_seg")
        assert found == [[True, True], [True, False], [False, False]]
        assert embeds[0] == [[0, 1], [0, 3]]
        assert embeds[1][0] == [1, 0]

    def test_before_seg_they_are_the_states_that_predict_it(self) -> None:
        embeds, found = self.states("before_seg")
        assert found == [[True, True], [True, False], [False, False]]
        assert embeds[0] == [[0, 0], [0, 2]]
        assert embeds[1][0] == [1, 0]  # nothing stands before the first position

    def test_no_seg_gives_no_phrase(self) -> None:
        embeds, found = self.states("at_seg", self.IDS[2:])
        assert embeds == [[]]
        assert found == [[]]

    def test_a_mask_leaves_seg_tokens_out(self) -> None:
        mask = torch.ones_like(self.IDS, dtype=torch.bool)
        mask[0, 1] = False
        embeds, found = self.states("at_seg", mask=mask)
        assert found == [[True], [True], [False]]
        assert embeds[0] == [[0, 3]]

    def test_left_padding_changes_no_state(self) -> None:
        ids = F.pad(self.IDS, (3, 0))
        embeds, found = self.states("before_seg", ids)
        assert found == [[True, True], [True, False], [False, False]]
        assert embeds[0] == [[0, 3], [0, 5]]


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_of_grounding_reaches_the_language_model_unless_detached(detached: bool) -> None:
    config = whole_config("shared", detach_grounding=detached)
    model, inputs = whole_model(config), example(config)
    with torch.enable_grad():
        output = model(**inputs.everything())
        embeds, found = model.phrase_states(output.last_hidden_state, inputs.text["input_ids"])
        grounding = model.ground(output.image_features.memory, embeds, found)
        grounding.phrase_logits[:, :, 0].sum().backward()
    assert (model.language_model.norm.weight.grad is None) is detached
    assert model.phrase_projector.weight.grad.abs().max() > 0
    assert model.grounder.similarity_head.projection.grad.abs().max() > 0


@flavours
def test_every_part_learns_from_text_phrases_and_prompts_together(flavour: str) -> None:
    config = whole_config(flavour)
    model, inputs = whole_model(config).train(), example(config)
    with torch.enable_grad():
        output = model(**inputs.everything(), labels=inputs.text["input_ids"])
        embeds, found = model.phrase_states(output.last_hidden_state, inputs.text["input_ids"])
        grounding = model.grounder.ground(output.image_features.memory, model.phrase_projector(embeds), found)
        prompts = output.prompt_output
        masks = mask_logits_from(prompts.mask_embeds.flatten(1, 2), prompts.mask_features)
        total = output.loss + prompts.boxes_cxcywh_norm.sum() + masks.sum() + prompts.ious.sum()
        for prediction in (grounding, *grounding.aux_outputs, grounding.interm):
            total = (
                total
                + prediction.phrase_logits.sum()
                + prediction.boxes_cxcywh_norm.sum()
                + prediction.mask_embeds.sum()
            )
        (total + grounding.mask_logits.sum()).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # What follows the tower's chosen layer, and the phrase that only picks queries.
    after = (".layers.2.", "post_layernorm", ".head.")
    tower_end = {name for name in idle if name.startswith("vision_tower.") and any(part in name for part in after)}
    assert idle - tower_end <= {"vision_tower.anything"}


def test_phrases_can_be_zero_and_still_give_queries() -> None:
    for flavour in FLAVOURS:
        model, inputs = built(flavour), example(whole_config(flavour))
        memory = model.encode_image(**inputs.images).memory
        output = model.ground(memory, torch.zeros(2, 0, 32), torch.zeros(2, 0, dtype=torch.bool))
        assert output.phrase_logits.shape == (2, 8, 0)
        assert output.boxes_cxcywh_norm.shape == (2, 8, 4)
        assert bool(torch.isfinite(output.boxes_cxcywh_norm).all())


def test_features_of_a_frozen_grounder_have_no_gradient() -> None:
    model, inputs = whole_model(whole_config("shared")), example(whole_config("shared"))
    pixels = inputs.images["grounder_pixel_values"].double()
    with torch.enable_grad():
        assert model.image_memory(pixels).memory.requires_grad
        model.grounder.requires_grad_(False)
        memory = model.image_memory(pixels).memory
    model.grounder.requires_grad_(True)
    assert not memory.requires_grad
    assert memory.dtype == torch.float32


@flavours
def test_a_grounder_picks_as_many_queries_as_it_is_told(flavour: str) -> None:
    model, inputs = LlavaGroundingForConditionalGeneration(whole_config(flavour)).eval(), example(whole_config(flavour))
    set_num_queries(model.grounder, model.config, 5)
    features = model.encode_image(**inputs.images)
    embeds, found = torch.randn(2, 2, 32), torch.ones(2, 2, dtype=torch.bool)
    with torch.no_grad():
        output = model.ground(features.memory, embeds, found, features.proposals)
    assert output.boxes_cxcywh_norm.shape == (2, 5, 4)
    assert model.config.grounder_config.num_queries == 5
    least = 4 if flavour == "shared" else 1  # the language model reads so many of them
    for wrong in (least - 1, 2**16 + 1, True):
        with pytest.raises(ConfigError, match=f"num_queries must be {least} to 65,536 here, got {wrong}"):
            set_num_queries(model.grounder, model.config, wrong)


@flavours
def test_one_memory_serves_all_rows_of_phrases(flavour: str) -> None:
    model, inputs = built(flavour), example(whole_config(flavour))
    memory = model.encode_image(**inputs.images).memory.index(torch.tensor([1]))
    embeds, found = torch.randn(3, 2, 32), torch.tensor([[True, True], [True, False], [True, True]])
    shared = model.ground(memory, embeds, found)
    copied = model.ground(memory.index(torch.tensor([0, 0, 0])), embeds, found)
    torch.testing.assert_close(shared.phrase_logits, copied.phrase_logits, **CLOSE)
    torch.testing.assert_close(shared.boxes_cxcywh_norm, copied.boxes_cxcywh_norm, **CLOSE)
    torch.testing.assert_close(shared.mask_logits, copied.mask_logits, **CLOSE)


def test_queries_picked_by_the_image_do_not_depend_on_the_other_phrases() -> None:
    model, inputs = built("shared"), example(whole_config("shared")).row(0)
    memory = model.encode_image(**inputs.images).memory
    embeds, found = torch.randn(1, 3, 32), torch.ones(1, 3, dtype=torch.bool)
    together, alone = model.ground(memory, embeds, found), model.ground(memory, embeds[:, 2:], found[:, 2:])
    torch.testing.assert_close(alone.phrase_logits, together.phrase_logits[:, :, 2:])
    torch.testing.assert_close(alone.boxes_cxcywh_norm, together.boxes_cxcywh_norm)
    assert together.phrase_logits.std() > 1e-3


class TestLoss:
    def test_it_is_the_mean_over_learnt_tokens_each_predicted_from_the_one_before(self) -> None:
        model, inputs = built("shared"), example(whole_config("shared"))
        ids = inputs.text["input_ids"]
        labels = torch.full_like(ids, -100)
        labels[0, -4:], labels[1, 10] = ids[0, -4:], ids[1, 10]
        output = model(**inputs.everything(), labels=labels)
        places = [(0, ids.shape[1] - back) for back in (4, 3, 2, 1)] + [(1, 10)]
        chances = [output.logits[row, place - 1].log_softmax(-1)[ids[row, place]] for row, place in places]
        torch.testing.assert_close(output.loss, -torch.stack(chances).mean())

    def test_padding_adds_nothing_to_it(self) -> None:
        model, inputs = built("shared"), example(whole_config("shared"))
        ids, mask = inputs.text["input_ids"], inputs.text["attention_mask"]
        loss = model(**inputs.everything(), labels=ids.masked_fill(mask == 0, -100)).loss
        alone = [model(**row.everything(), labels=row.text["input_ids"]).loss for row in map(inputs.row, (0, 1))]
        counts = mask.sum(1) - 1
        torch.testing.assert_close(loss, (torch.stack(alone) * counts).sum() / counts.sum(), **CLOSE)

    def test_without_labels_there_is_none(self) -> None:
        assert built("shared")(**example(whole_config("shared")).everything()).loss is None


def test_only_the_last_logits_are_computed_when_asked() -> None:
    model, inputs = built("shared"), example(whole_config("shared"))
    whole = model(**inputs.everything()).logits
    last = model(**inputs.everything(), logits_to_keep=1).logits
    assert last.shape == (2, 1, whole.shape[2])
    torch.testing.assert_close(last, whole[:, -1:], **CLOSE)


def test_text_without_image_is_a_plain_language_model() -> None:
    model = built("siglip")
    text = batch_texts([[20, 21, 22]])
    embeds = model.get_input_embeddings()(text["input_ids"])
    hidden = model.language_model(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(model(**text).logits, model.lm_head(hidden), **CLOSE)


def test_a_language_side_in_bfloat16_works_with_vision_in_float32() -> None:
    config = whole_config("shared")
    model, inputs = whole_model(config), example(config)
    wanted = answers(model, inputs)
    for part in (model.language_model, model.lm_head, model.phrase_projector):
        part.to(torch.bfloat16)
    found = answers(model, inputs)
    assert found["logits"].dtype == torch.bfloat16
    assert found["boxes"].dtype == torch.float32
    torch.testing.assert_close(found["boxes"], wanted["boxes"], atol=0, rtol=0)
    agreement = F.cosine_similarity(found["logits"].float().flatten(), wanted["logits"].flatten(), dim=0)
    assert agreement > 0.99


def test_prompts_move_to_another_device_whole() -> None:
    prompts = example(whole_config("shared")).prompts
    assert prompts is not None
    moved = prompts.to("meta")
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
    assert RegionPrompts(prompts.boxes_cxcywh_norm, prompts.types, prompts.valid).to("meta").coverage is None


def test_image_features_can_be_put_together_by_hand() -> None:
    memory = ImageMemory(torch.zeros(1, 4, 8), ((2, 2),), torch.zeros(1, 4, 8, 8))
    features = ImageFeatures(torch.zeros(1, 3, 8), memory, memory)
    assert features.rows(torch.tensor([0, 0])).prompt_memory.memory.shape == (2, 4, 8)
