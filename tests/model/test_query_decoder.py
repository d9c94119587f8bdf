"""The query decoder and its box head: recorded states, who sees whom, and where gradients stop."""

import pytest
import torch
from torch import Tensor
from vision_parts import FEATURES, HIDDEN, golden, golden_grounder, random_memory, recorded_memory

from llava_grounding.errors import ConfigError
from llava_grounding.model.heads import BoxHead, inverse_sigmoid, sine_box_embedding
from llava_grounding.model.outputs import ImageMemory
from llava_grounding.model.query_decoder import QueryDecoder, QuerySelfAttention


def small_decoder(layers: int = 2) -> QueryDecoder:
    torch.manual_seed(0)
    decoder = QueryDecoder(HIDDEN, num_heads=4, num_levels=3, num_layers=layers, ffn_size=32)
    torch.nn.init.normal_(decoder.box_head.layers[-1].weight, std=0.3)
    return decoder.eval()


def random_queries(batch: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(batch, count, HIDDEN, generator=generator)
    return states, torch.rand(batch, count, 4, generator=generator) * 0.5 + 0.2


@torch.no_grad()
def test_states_and_references_are_those_recorded() -> None:
    image, case = golden("A_grounding", "image1.safetensors"), golden("A_grounding", "image1_phrases5.safetensors")
    sizes = tuple((int(height), int(width)) for height, width in image["two_stage.spatial_shapes"])
    memory = ImageMemory(recorded_memory(image), sizes, image["pixel_decoder.mask_features"])
    steps = golden_grounder().query_decoder(
        case["two_stage.tgt"], case["two_stage.refpoint_unsigmoid"].sigmoid(), memory
    )
    for index, step in enumerate(steps):
        torch.testing.assert_close(step.states, case[f"decoder.hs.{index}"], **FEATURES)
        torch.testing.assert_close(step.references_in, case[f"decoder.reference.{index}"], **FEATURES)
        torch.testing.assert_close(step.references_out, case[f"decoder.reference.{index + 1}"], **FEATURES)


@torch.no_grad()
def test_groups_of_queries_do_not_see_each_other() -> None:
    decoder, memory = small_decoder(), random_memory(2)
    states, references = random_queries(2, 6)
    together = decoder(states, references, memory, group_size=2)[-1]
    for first in (0, 2, 4):
        rows = slice(first, first + 2)
        alone = decoder(states[:, rows], references[:, rows], memory)[-1]
        torch.testing.assert_close(together.states[:, rows], alone.states)
        torch.testing.assert_close(together.references_out[:, rows], alone.references_out)
    assert not torch.allclose(together.states, decoder(states, references, memory)[-1].states, atol=1e-3)


@torch.no_grad()
def test_hidden_queries_change_nothing_for_the_others() -> None:
    decoder, memory = small_decoder(), random_memory(2)
    states, references = random_queries(2, 5)
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    masked = decoder(states, references, memory, query_mask=mask)[-1].states
    alone = decoder(states[:1, :3], references[:1, :3], random_memory(2).index(torch.tensor([0])))[-1].states
    torch.testing.assert_close(masked[:1, :3], alone)
    assert masked.isfinite().all()


@torch.no_grad()
def test_references_stay_where_they_are_while_the_box_head_is_new() -> None:
    decoder = QueryDecoder(HIDDEN, num_heads=4, num_levels=3, num_layers=2, ffn_size=32)
    states, references = random_queries(1, 4)
    for step in decoder(states, references, random_memory()):
        torch.testing.assert_close(step.references_out, references, atol=1e-5, rtol=1e-5)


def test_a_layer_learns_from_its_own_boxes_and_those_of_the_next_layer_only() -> None:
    decoder, memory = small_decoder(layers=3), random_memory()
    states, references = random_queries(1, 4)
    references.requires_grad_()
    steps = decoder(states, references, memory)
    own, following = steps[0].references_out, steps[1].references_in
    assert own is following  # the next layer's boxes are measured from it, with gradient
    [through_box] = torch.autograd.grad(steps[2].references_out.sum(), own, retain_graph=True, allow_unused=True)
    assert through_box is None
    assert torch.autograd.grad(own.sum(), references, allow_unused=True)[0] is None  # layers start from detached boxes


def test_refining_adds_in_logit_space_and_survives_boxes_at_the_border() -> None:
    head = BoxHead(HIDDEN)
    states, _ = random_queries(1, 1)
    with torch.no_grad():
        head.layers[-1].bias.copy_(torch.tensor([1.0, 0.0, -1.0, 0.0]))
    refined = head.refine(states, torch.tensor([[[0.5, 0.25, 0.5, 1.0]]]))
    expected = torch.tensor([[[torch.tensor(1.0).sigmoid(), 0.25, torch.tensor(-1.0).sigmoid(), 1.0]]])
    torch.testing.assert_close(refined, expected, atol=2e-5, rtol=1e-4)
    edges = inverse_sigmoid(torch.tensor([0.0, 1.0, -3.0, 7.0]))
    torch.testing.assert_close(edges, torch.tensor([-11.5129, 11.5129, -11.5129, 11.5129]), atol=1e-3, rtol=1e-3)


def test_a_box_is_coded_as_y_x_w_h() -> None:
    box = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    code = sine_box_embedding(box, 16)[0, 0].view(4, 4)
    torch.testing.assert_close(code[:, 0], (torch.tensor([0.2, 0.1, 0.3, 0.4]) * 2 * torch.pi).sin())
    torch.testing.assert_close(code[:, 3], (torch.tensor([0.2, 0.1, 0.3, 0.4]) * 2 * torch.pi / 100).cos())


@torch.no_grad()
def test_half_precision_weights_give_half_precision_states_and_full_precision_boxes() -> None:
    decoder, memory = small_decoder().bfloat16(), random_memory()
    states, references = random_queries(1, 4)
    half = ImageMemory(memory.memory.bfloat16(), memory.level_sizes_hw, memory.mask_features.bfloat16())
    step = decoder(states.bfloat16(), references, half)[-1]
    assert (step.states.dtype, step.references_out.dtype) == (torch.bfloat16, torch.float32)
    assert step.states.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(("width", "heads"), [(32, 2), (96, 8), (32, 1)])
def test_queries_attend_to_each_other_as_in_torch(width: int, heads: int) -> None:
    torch.manual_seed(0)
    ours, theirs = QuerySelfAttention(width, heads), torch.nn.MultiheadAttention(width, heads, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    ours.load_state_dict(theirs.state_dict())
    query, value = torch.randn(2, 2, 7, width)
    hidden = torch.tensor([[False] * 7, [True, False, True, False, False, False, False]])
    for mask in (None, hidden):
        expected, _ = theirs(query, query, value, key_padding_mask=mask)
        torch.testing.assert_close(ours(query, value, mask), expected, atol=1e-5, rtol=1e-4)


def test_a_width_that_codes_no_box_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size must be a multiple of 4, .*, got 30"):
        QueryDecoder(30, num_heads=2)
