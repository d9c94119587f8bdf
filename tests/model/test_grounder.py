"""The grounder: the original's recorded numbers, and everything that must not change an answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vision_parts import (
    FEATURES,
    HIDDEN,
    LOGITS,
    PHRASE,
    golden,
    golden_grounder,
    golden_pixels,
    random_memory,
    random_phrases,
    small_grounder,
)

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.grounder import Grounder
from llava_grounding.model.heads import PhraseSimilarityHead
from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction, ImageMemory

KINDS = ["deformable", "feature_pyramid"]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def assert_same(ours: GrounderPrediction, theirs: GrounderPrediction) -> None:
    torch.testing.assert_close(ours.phrase_logits, theirs.phrase_logits, **CLOSE)
    torch.testing.assert_close(ours.boxes_cxcywh_norm, theirs.boxes_cxcywh_norm, **CLOSE)
    torch.testing.assert_close(ours.mask_embeds, theirs.mask_embeds, **CLOSE)


def row(output: GrounderOutput, index: int) -> GrounderPrediction:
    rows = slice(index, index + 1)
    return GrounderPrediction(output.phrase_logits[rows], output.boxes_cxcywh_norm[rows], output.mask_embeds[rows])


@pytest.fixture(scope="module")
def memory() -> ImageMemory:
    return random_memory(2)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return small_grounder("feature_pyramid", num_levels=3)


@torch.no_grad()
def test_every_prediction_is_the_recorded_one() -> None:
    case = golden("A_grounding", "image1_phrases5.safetensors")
    grounder = golden_grounder()
    phrases = case["in.text_embeddings"], case["in.text_mask"].bool()
    memory = grounder.encode_image(golden_pixels("A_grounding", "image1.safetensors"))
    output = grounder.ground(memory, *phrases, with_aux=True)
    assert torch.equal(output.topk_indices, case["two_stage.topk_indices"])
    torch.testing.assert_close(output.phrase_logits, case["out.pred_logits"], **LOGITS)
    torch.testing.assert_close(output.boxes_cxcywh_norm, case["out.pred_boxes"], **FEATURES)
    torch.testing.assert_close(output.mask_logits, case["out.pred_masks"], **LOGITS)
    for index, prediction in enumerate([*output.aux_outputs, output]):
        torch.testing.assert_close(prediction.phrase_logits, case[f"pred.{index}.logits"], **LOGITS)
        torch.testing.assert_close(prediction.boxes_cxcywh_norm, case[f"pred.{index}.boxes"], **FEATURES)
    assert output.interm is not None
    torch.testing.assert_close(output.interm.phrase_logits, case["two_stage.pred_logits"], **LOGITS)
    torch.testing.assert_close(output.interm.boxes_cxcywh_norm, case["two_stage.pred_boxes"], **FEATURES)


@torch.no_grad()
def test_proposals_are_the_recorded_ones() -> None:
    recorded = golden("A_grounding", "image1.safetensors")
    sizes = tuple((int(height), int(width)) for height, width in recorded["two_stage.spatial_shapes"])
    logits, valid = golden_grounder().query_selection.proposals(sizes, torch.device("cpu"))
    torch.testing.assert_close(logits[None], recorded["two_stage.output_proposals"], atol=1e-5, rtol=1e-5)
    assert 0 < int((~valid).sum()) < len(valid)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_two_is_two_of_one(kind: str) -> None:
    grounder = small_grounder(kind)
    pixels, (phrases, mask) = torch.randn(2, 3, 64, 96), random_phrases(2, 3)
    mask[1, 2] = False
    together = grounder(pixels, phrases, mask)
    for index in range(2):
        rows = slice(index, index + 1)
        alone = grounder(pixels[rows], phrases[rows], mask[rows])
        assert_same(row(together, index), alone)
        torch.testing.assert_close(together.mask_logits[rows], alone.mask_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padded_phrases_change_nothing(grounder: Grounder, memory: ImageMemory) -> None:
    phrases, mask = random_phrases(2, 2)
    padding = torch.randn(2, 3, PHRASE) * 100
    padded_mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    alone = grounder.ground(memory, phrases, mask)
    padded = grounder.ground(memory, torch.cat([phrases, padding], dim=1), padded_mask)
    assert (padded.phrase_logits[:, :, 2:] == -100).all()
    kept = GrounderPrediction(padded.phrase_logits[:, :, :2], padded.boxes_cxcywh_norm, padded.mask_embeds)
    assert_same(kept, alone)


@torch.no_grad()
def test_padding_does_not_rank_cells_that_fit_no_phrase(memory: ImageMemory) -> None:
    grounder = small_grounder("feature_pyramid", num_levels=3, num_queries=126)
    phrases, mask = random_phrases(2, 2)
    phrases *= 1000  # most logits lie far below the -100 of padding
    alone = grounder.ground(memory, phrases, mask)
    padded = grounder.ground(
        memory, torch.nn.functional.pad(phrases, (0, 0, 0, 1)), torch.nn.functional.pad(mask, (0, 1))
    )
    assert torch.equal(padded.topk_indices, alone.topk_indices)


@torch.no_grad()
@given(order=st.permutations(range(4)))
@settings(deadline=None, max_examples=10)
def test_the_order_of_phrases_only_orders_the_logits(grounder: Grounder, memory: ImageMemory, order: list[int]) -> None:
    phrases, mask = random_phrases(2, 4)
    straight = grounder.ground(memory, phrases, mask)
    shuffled = grounder.ground(memory, phrases[:, order], mask)
    straight.phrase_logits = straight.phrase_logits[:, :, order]
    assert_same(shuffled, straight)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_memory_answers_as_a_fresh_one(kind: str) -> None:
    grounder = small_grounder(kind)
    pixels, (phrases, mask) = torch.randn(1, 3, 64, 64), random_phrases(1, 2)
    memory = grounder.encode_image(pixels)
    grounder.ground(memory, *random_phrases(1, 5, seed=1))
    assert_same(grounder.ground(memory, phrases, mask), grounder(pixels, phrases, mask))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["gather", "grid_sample"])
def test_one_memory_serves_many_rows_of_phrases(implementation: str) -> None:
    grounder = small_grounder("feature_pyramid", num_levels=3, implementation=implementation)
    memory, (phrases, mask) = random_memory(1), random_phrases(3, 2)
    shared = grounder.ground(memory, phrases, mask)
    assert_same(shared, grounder.ground(memory.repeat(3), phrases, mask))
    assert shared.mask_features.shape[0] == 3


@torch.no_grad()
def test_memories_can_be_chosen_repeated_and_moved(memory: ImageMemory) -> None:
    chosen = memory.index(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.memory, memory.memory[[1, 1, 0]])
    assert torch.equal(chosen.mask_features, memory.mask_features[[1, 1, 0]])
    assert torch.equal(memory.repeat(2).memory, memory.memory[[0, 0, 1, 1]])
    assert torch.equal(memory.to("cpu").memory, memory.memory)


@torch.no_grad()
def test_without_any_phrase_queries_start_from_valid_cells_coarse_to_fine(
    grounder: Grounder, memory: ImageMemory
) -> None:
    output = grounder.ground(memory, *random_phrases(2, 0), with_aux=True)
    assert output.phrase_logits.shape == (2, 10, 0)
    assert output.topk_indices.tolist() == [list(range(10))] * 2
    assert output.mask_logits.shape == (2, 10, 16, 24)
    phrases, mask = random_phrases(2, 3)
    mask[1] = False
    half = grounder.ground(memory, phrases, mask)
    assert torch.equal(half.topk_indices[1], output.topk_indices[1])
    assert (half.phrase_logits[1] == -100).all()


@torch.no_grad()
def test_a_small_memory_gives_fewer_queries(memory: ImageMemory) -> None:
    grounder = small_grounder("feature_pyramid", num_levels=3, num_queries=500)
    output = grounder.ground(memory, *random_phrases(2, 2))
    assert output.boxes_cxcywh_norm.shape == (2, memory.memory.shape[1], 4)
    assert output.boxes_cxcywh_norm.isfinite().all()
    assert output.phrase_logits.isfinite().all()


@torch.no_grad()
def test_cells_with_an_anchor_outside_are_taken_last(memory: ImageMemory) -> None:
    grounder = small_grounder("feature_pyramid", num_levels=3, num_queries=500, proposal_scale=0.33)
    _, valid = grounder.query_selection.proposals(memory.level_sizes_hw, torch.device("cpu"))
    assert valid.sum() == 6 + 24  # the finest anchors measure 1.32
    heads = grounder.similarity_head, grounder.query_decoder.box_head
    chosen = grounder.query_selection(memory, *random_phrases(2, 2), *heads)
    assert valid[chosen.indices[:, :30]].all()
    assert not valid[chosen.indices[:, 30:]].any()
    assert (chosen.states[:, 30:] == chosen.states[0, 30]).all()  # what is there in the image is not read


def test_the_smallest_anchor_is_where_the_option_says() -> None:
    sizes = ((2, 2), (4, 4), (8, 8))
    for order, sides in {"official": (0.05, 0.1, 0.2), "fine_small": (0.2, 0.1, 0.05)}.items():
        selection = small_grounder("feature_pyramid", num_levels=3, proposal_order=order).query_selection
        anchors = selection.proposals(sizes, torch.device("cpu"))[0].sigmoid()
        torch.testing.assert_close(anchors[[0, 4, 20], 2], torch.tensor(sides))
        torch.testing.assert_close(anchors[[0, 4, 20], 0], torch.tensor([0.25, 0.125, 0.0625]))
    with pytest.raises(ConfigError, match="proposal_order must be one of official, fine_small, got `coarse`"):
        small_grounder("feature_pyramid", proposal_order="coarse")


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 50), phrases=st.integers(0, 4), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1, 30])
)
def test_both_forms_of_the_similarity_agree(rows: int, phrases: int, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    head = PhraseSimilarityHead(HIDDEN, PHRASE)
    states, embeds = torch.randn(2, rows, HIDDEN) * scale, torch.randn(2, phrases, PHRASE) * 100
    mask = torch.rand(2, phrases) > 0.2
    plain, gram = (head(states, embeds, mask, form=form) for form in ("plain", "gram"))
    torch.testing.assert_close(gram, plain, atol=5e-3, rtol=1e-3)


def test_the_similarity_is_the_projected_unit_state_times_the_raw_phrase() -> None:
    head = PhraseSimilarityHead(2, 3)
    with torch.no_grad():
        head.projection.copy_(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    states, phrase = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[[10.0, 0.0, 0.0]]])
    for form in ("plain", "gram"):
        logits = head(states, phrase, torch.tensor([[True]]), form=form)
        torch.testing.assert_close(logits, torch.tensor([[[torch.e * 6.0], [0.0]]]))


def test_both_forms_of_the_similarity_learn_alike() -> None:
    torch.manual_seed(0)
    head, states = PhraseSimilarityHead(HIDDEN, PHRASE), torch.randn(1, 5, HIDDEN)
    phrases, mask = random_phrases(1, 3)
    results = []
    for form in ("plain", "gram"):
        leaves = [states.clone().requires_grad_(), phrases.clone().requires_grad_(), *head.parameters()]
        logits = head(leaves[0], leaves[1], mask, form=form)
        results.append(torch.autograd.grad(logits.square().sum(), leaves))
    for plain, gram in zip(*results, strict=True):
        torch.testing.assert_close(gram, plain, atol=1e-3, rtol=1e-3)


def loss_of(prediction: GrounderPrediction) -> Tensor:
    return sum(value.square().mean() for value in vars(prediction).values() if isinstance(value, Tensor))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_in_training(kind: str) -> None:
    grounder = small_grounder(kind).train()
    output = grounder(torch.randn(2, 3, 64, 64), *random_phrases(2, 2))
    assert len(output.aux_outputs) == 2
    assert output.interm is not None
    predictions = [
        GrounderPrediction(output.phrase_logits, output.boxes_cxcywh_norm, output.mask_embeds),
        output.interm,
    ]
    loss = sum(loss_of(prediction) for prediction in [*predictions, *output.aux_outputs])
    (loss + output.mask_logits[1, 0].square().mean()).backward()
    assert [name for name, parameter in grounder.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in grounder.parameters())


@torch.no_grad()
def test_earlier_layers_speak_only_in_training_or_when_asked(grounder: Grounder, memory: ImageMemory) -> None:
    phrases = random_phrases(2, 2)
    output = grounder.ground(memory, *phrases)
    assert output.aux_outputs == ()
    assert output.interm is None
    assert_same(grounder.ground(memory, *phrases, with_aux=True), output)


@torch.no_grad()
def test_queries_found_earlier_are_scored_against_other_phrases(grounder: Grounder, memory: ImageMemory) -> None:
    phrases, mask = random_phrases(2, 3)
    mask[0, 2] = False
    found = grounder.ground(memory, phrases, mask)
    assert_same(grounder.rescore(found, phrases, mask), found)
    image = grounder.ground(memory.index(torch.tensor([0])), phrases[:1, :2], mask[:1, :2])
    shared = grounder.rescore(image, *random_phrases(2, 1))
    assert shared.phrase_logits.shape == (2, 10, 1)
    assert torch.equal(shared.boxes_cxcywh_norm, image.boxes_cxcywh_norm.expand(2, -1, -1))
    assert shared.mask_logits.shape == (2, 10, 16, 24)


def test_a_learned_bias_moves_all_logits_but_those_of_padding() -> None:
    heads = [PhraseSimilarityHead(HIDDEN, PHRASE, bias) for bias in (None, -2.5)]
    heads[1].load_state_dict(heads[0].state_dict(), strict=False)
    phrases, mask = random_phrases(1, 2)
    mask[0, 1] = False
    plain, biased = (
        head(torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(0)), phrases, mask) for head in heads
    )
    torch.testing.assert_close(biased[..., 0], plain[..., 0] - 2.5)
    assert (biased[..., 1] == -100).all()


@torch.no_grad()
def test_half_precision_and_autocast_work(grounder: Grounder, memory: ImageMemory) -> None:
    phrases, mask = random_phrases(2, 2)
    exact = grounder.ground(memory, phrases, mask)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = grounder.ground(memory, phrases, mask)
    assert mixed.phrase_logits.dtype == mixed.boxes_cxcywh_norm.dtype == torch.float32
    assert (mixed.boxes_cxcywh_norm.mean() - exact.boxes_cxcywh_norm.mean()).abs() < 0.05
    half = small_grounder("feature_pyramid", num_levels=3).bfloat16()
    output = half(torch.randn(1, 3, 64, 64).bfloat16(), phrases[:1].bfloat16(), mask[:1])
    assert output.boxes_cxcywh_norm.isfinite().all()


def test_memory_and_phrases_must_fit(grounder: Grounder, memory: ImageMemory) -> None:
    with pytest.raises(ShapeError, match="memory of 2 images does not fit phrases of 3"):
        grounder.ground(memory, *random_phrases(3, 1))
