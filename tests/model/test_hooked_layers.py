"""Every weight of the model is used by a plain call of the module that owns it, and by nothing else.

Adapters, quantisers, pruning, forward hooks and offloading hang on that call: what goes around it is passed by, or
meets weights that are not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers import AutoModelForImageTextToText

from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.placement import device_of, like
from whole_models import FLAVOURS, example, whole_config, whole_model

Model = LlavaGroundingForConditionalGeneration


def answers(model: Model) -> list[Tensor]:
    """What a whole use of the model gives: image, prompts, text, a generated answer, and regions of phrases."""
    inputs = example(model.config)
    with torch.no_grad():
        output = model(**inputs.everything())
        states, mask = model.phrase_states(output.last_hidden_state, inputs.text["input_ids"])
        found = model.ground(output.image_features.memory, states, mask)
        alone = inputs.row(1)
        generated = model.generate(**alone.text, **alone.images, region_prompts=alone.prompts, max_new_tokens=3)
    prompt = output.prompt_output
    return [output.logits, found.phrase_logits, found.boxes_cxcywh_norm, found.mask_logits, prompt.ious, generated]


def regions(model: Model) -> list[Tensor]:
    """What a pass over image, prompts and text, and the grounding of its phrases give."""
    inputs = example(model.config).row(1)
    with torch.no_grad():
        output = model(**inputs.everything())
        states, mask = model.phrase_states(output.last_hidden_state, inputs.text["input_ids"])
        found = model.ground(output.image_features.memory, states, mask)
    return [output.logits, found.phrase_logits, found.boxes_cxcywh_norm, output.prompt_output.ious]


def note(called: set[str], name: str) -> Callable[..., None]:
    """A forward hook that enters a name."""
    return lambda *_: called.add(name)


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_module_with_weights_of_its_own_is_called(flavour: str) -> None:
    model = whole_model(whole_config(flavour)).eval()
    called: set[str] = set()
    owners = [name for name, part in model.named_modules() if any(True for _ in part.parameters(recurse=False))]
    for name in owners:
        model.get_submodule(name).register_forward_hook(note(called, name))
    answers(model)
    idle = ("post_layernorm", "vision_model.head", "post_layrnorm")  # of a tower whose last layers are not read
    assert [name for name in owners if name not in called and not any(part in name for part in idle)] == []


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_weights_that_are_brought_in_for_each_call_give_the_same(flavour: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = whole_model(whole_config(flavour)).eval()
    wanted = answers(model)
    for part in model.children():
        if any(True for _ in part.parameters()):
            accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert model.device == torch.device("cpu")
    assert_same(answers(model), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_device_map_may_put_every_part_on_a_disk(flavour: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    whole_model(whole_config(flavour)).half().save_pretrained(tmp_path / "model")  # what shall be float32 is widened
    kinds = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float16)
    wanted = regions(kinds)
    places = {name: "disk" for name, _ in kinds.named_children()}
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", dtype=torch.float16, device_map=places, offload_folder=tmp_path / "disk"
    )
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    types = [{name: weight.dtype for name, weight in one.named_parameters()} for one in (model, kinds)]
    assert types[0] == types[1]
    assert_same(regions(model), wanted)


@pytest.mark.parametrize("flavour", ["shared", "official"])
def test_an_adapter_on_any_linear_layer_is_heard(flavour: str) -> None:
    peft = pytest.importorskip("peft")
    model = whole_model(whole_config(flavour)).eval()
    plain = answers(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert_same(answers(adapted.base_model.model), plain)
    layers = {name: part for name, part in adapted.named_modules() if hasattr(part, "lora_B")}
    called: set[str] = set()
    for name, layer in layers.items():
        layer.lora_B["default"].register_forward_hook(note(called, name))
    adapted_answers = answers(model)
    idle = ("vision_model.encoder.layers.2", "vision_model.head")  # the tower's last layer is not read
    assert [name for name in layers if name not in called and not any(part in name for part in idle)] == []
    (first, *_) = [layer for name, layer in layers.items() if "query_decoder.layers.0.self_attn.out_proj" in name]
    nn.init.normal_(first.lora_B["default"].weight)
    assert not torch.equal(answers(model)[1], adapted_answers[1])


def test_a_pruned_layer_is_pruned() -> None:
    model = whole_model(whole_config("official")).eval()
    plain = answers(model)
    attention = model.grounder.query_decoder.layers[0].self_attn
    prune.l1_unstructured(attention.out_proj, "weight", amount=0.9)
    assert not torch.equal(answers(model)[1], plain[1])
    with torch.no_grad():
        attention.out_proj.weight_orig.zero_()
    before = answers(model)
    with torch.no_grad():
        attention.out_proj.bias.add_(1.0)
    assert not torch.equal(answers(model)[1], before[1])


def test_a_hook_may_keep_what_a_layer_gives() -> None:
    model = whole_model(whole_config("official")).eval()
    kept: list[tuple[Tensor, Tensor]] = []
    for name, part in model.grounder.named_modules():
        if isinstance(part, nn.Linear) and "backbone" not in name:
            part.register_forward_hook(lambda _, __, output: kept.append((output, output.clone())))
    answers(model)
    assert kept
    assert all(torch.equal(output, copied) for output, copied in kept)


def test_a_part_says_where_it_computes_and_in_which_type() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(torch.bfloat16)
    assert device_of(part) == torch.device("cpu")
    assert device_of(nn.Identity()) is None
    assert like(nn.Identity(), torch.ones(1)).dtype == torch.float32
    assert like(part, torch.ones(1)).dtype == torch.bfloat16
    away = copy.deepcopy(part).to("meta")
    away[1]._hf_hook = type("Hooks", (), {"hooks": [object(), type("Hook", (), {"execution_device": "cpu"})()]})()
    assert like(away, torch.ones(1)).device.type == "cpu"


def test_modules_whose_weights_are_here_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    monkeypatch.setattr(nn.Module, "modules", lambda _: pytest.fail("all modules were searched"))
    assert device_of(part) == torch.device("cpu")
