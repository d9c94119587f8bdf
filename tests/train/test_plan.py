"""What learns in each stage and how fast: part by part, row by row, and as many numbers as the plan says."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import class_phrases, recipe, training_model, training_setup
from torch import Tensor, nn

from llava_grounding.errors import ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.adapters import add_adapters
from llava_grounding.train.plan import (
    PHRASES,
    STAGES,
    PartPlan,
    learning_rate_of,
    parameter_groups,
    part_plans,
    plan_lines,
    set_trainable,
    stage_plan,
)
from llava_grounding.train.recipe import LoraSettings, recipe_of

FLAVOURS = ("shared", "official", "siglip")
LANGUAGE = {"multi_modal_projector", "phrase_projector", "language_model", "lm_head"}
VISION = {"grounder", "visual_prompt_encoder"}
NEW_TOKENS = [6, 7, 8]
# Stage -> parts that learn as a whole, where the tower is the model's own and where the grounder's is shared.
LEARNS: dict[str, tuple[set[str], set[str]]] = {
    "pretrain_grounder": ({"grounder", PHRASES}, {"vision_tower"}),
    "chat": (LANGUAGE | VISION | {PHRASES}, {"vision_tower"}),
    "align": ({"multi_modal_projector", "phrase_projector", "grounder"}, set()),
    "grounded_chat": (LANGUAGE | {"grounder"}, set()),
    "visual_prompt": ({"visual_prompt_encoder"}, set()),
    "set_of_mark": ({"multi_modal_projector", "language_model", "lm_head"}, set()),
}


def plan(stage: str, flavour: str = "shared", **values: Any) -> list[PartPlan]:
    """Part by part, after the stage's model was set to learn."""
    one = recipe(stage, **values)
    model, staged = training_model(flavour), stage_plan(one)
    if one.lora is not None:
        add_adapters(model, one.lora)
    set_trainable(model, staged, NEW_TOKENS)
    return part_plans(model, class_phrases() if "classes" in staged.tasks else None, one)


def untied(flavour: str = "shared") -> LlavaGroundingForConditionalGeneration:
    """A model whose output layer has weights of its own."""
    text = {"text_config": {**training_model(flavour).config.text_config.to_dict(), "tie_word_embeddings": False}}
    return training_model(flavour, tie_word_embeddings=False, **text)


class TestParts:
    @pytest.mark.parametrize("flavour", FLAVOURS)
    @pytest.mark.parametrize("stage", STAGES)
    def test_exactly_the_parts_of_a_stage_learn(self, stage: str, flavour: str) -> None:
        always, shared = LEARNS[stage]
        model = training_model(flavour)
        tied = model.lm_head.weight is model.get_input_embeddings().weight
        assert tied == (flavour != "official")
        expected = always | (shared if flavour == "shared" else set())
        for part in plan(stage, flavour):
            new_rows = stage == "align" and part.name in ("language_model", "lm_head")
            assert (part.trainable > 0) == (part.name in expected or new_rows), part
            assert (part.frozen == 0) == (part.name in expected), part
        names = {part.name for part in plan(stage, flavour)}
        assert ("lm_head" in names) != tied

    def test_tasks_are_those_of_the_stage_but_for_wishes(self) -> None:
        assert stage_plan(recipe("chat")).tasks == ("language", "phrases", "classes")
        assert stage_plan(recipe("chat", class_task=False)).tasks == ("language", "phrases")
        assert stage_plan(recipe("grounded_chat")).tasks == ("language", "phrases")
        with_names = stage_plan(recipe("grounded_chat", class_task=True))
        assert with_names.tasks == ("language", "phrases", "classes")
        assert PHRASES in with_names.parts
        assert "classes" not in stage_plan(recipe("chat", freeze=["grounder"])).tasks
        assert PHRASES not in stage_plan(recipe("chat", freeze=["grounder"])).parts

    @pytest.mark.parametrize("part", ["grounder", "language_model", "visual_prompt_encoder", "multi_modal_projector"])
    @pytest.mark.parametrize("flavour", ["shared", "official"])
    def test_a_frozen_part_rests_and_no_other(self, part: str, flavour: str) -> None:
        before = {one.name: one.trainable for one in plan("chat", flavour)}
        after = {one.name: one.trainable for one in plan("chat", flavour, freeze=[part])}
        assert after[part] == 0
        changed = {name for name, learning in after.items() if learning != before[name]}
        assert changed == {part}

    def test_the_output_layer_may_rest_where_it_is_its_own(self) -> None:
        (head,) = [one for one in plan("grounded_chat", "official", train_lm_head=False) if one.name == "lm_head"]
        assert (head.trainable, head.frozen) == (0, 320 * 32)
        (language,) = [one for one in plan("grounded_chat", "official", train_lm_head=False) if "language" in one.name]
        assert language.frozen == 0

    def test_what_cannot_be_frozen_is_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            stage_plan(recipe("chat", freeze=["groundr"]))
        assert str(caught.value) == "`freeze` names no part of the model: `groundr`; did you mean `grounder`?"
        with pytest.raises(ConfigError, match="everything that stage `visual_prompt` would train is frozen"):
            stage_plan(recipe("visual_prompt", freeze=["visual_prompt_encoder"]))

    def test_a_stage_without_a_task_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="stage `pretrain_grounder` is left without a task"):
            stage_plan(recipe("pretrain_grounder", class_task=False))

    def test_a_metric_that_no_validation_will_have_is_refused_before_anything_is_loaded(self) -> None:
        for stage, metric in (("chat", "class_f1"), ("grounded_chat", "phrase_f1"), ("set_of_mark", "language_loss")):
            assert stage_plan(recipe(stage, metric=metric)).tasks
        with pytest.raises(ConfigError) as caught:
            stage_plan(recipe("grounded_chat", metric="class_f"))
        assert str(caught.value) == (
            "`metric` must be a number of the validation, which are phrase_f1, language_loss; got `class_f`"
        )
        with pytest.raises(ConfigError, match="did you mean `class_f1`"):
            stage_plan(recipe("pretrain_grounder", metric="class_f"))

    def test_a_second_stage_in_the_same_process_leaves_nothing_of_the_first(self) -> None:
        model = untied()
        set_trainable(model, stage_plan(recipe("align")), NEW_TOKENS)
        set_trainable(model, stage_plan(recipe("grounded_chat")), NEW_TOKENS)
        table = model.get_input_embeddings().weight
        table.sum().backward()
        assert table.grad.abs().min() == 1
        (language,) = [one for one in part_plans(model, None, recipe("grounded_chat")) if one.name == "language_model"]
        assert language.frozen == 0


class TestCounts:
    @pytest.mark.parametrize("flavour", FLAVOURS)
    @pytest.mark.parametrize("stage", STAGES)
    def test_they_are_the_numbers_of_parameters(self, stage: str, flavour: str) -> None:
        parts = {part.name: part for part in plan(stage, flavour)}
        model = training_model(flavour)
        for name, child in model.named_children():
            own = [one for label, one in model.named_parameters() if label.startswith(f"{name}.")]
            if own:
                part = parts.pop(name)
                assert part.trainable + part.frozen == sum(one.numel() for one in own), child
        if PHRASES in parts:
            assert sum(one.numel() for one in class_phrases().parameters()) == parts.pop(PHRASES).trainable
        assert not parts

    def test_new_rows_are_counted_alone(self) -> None:
        (language,) = [part for part in plan("align") if part.name == "language_model"]
        assert language.trainable == len(NEW_TOKENS) * 32
        heads = [part.trainable for part in plan("align", "official") if part.name in ("language_model", "lm_head")]
        assert heads == [len(NEW_TOKENS) * 32] * 2

    def test_the_lines_say_them(self) -> None:
        parts, one = (
            plan("align"),
            recipe("align", vision_lr_multiplier=0.5, backbone_lr_multiplier=0.1, learning_rate=1e-3),
        )
        parts = [replace(part, rates=(5e-4, 5e-5)) if part.name == "grounder" else part for part in parts]
        lines = plan_lines(parts, one, ("language", "phrases"))
        total = sum(parameter.numel() for parameter in training_model().parameters())
        learning = sum(part.trainable for part in parts)
        assert lines[0] == "stage align: language, phrases"
        assert lines[-1] == f"  {learning:,d} of {total:,d} parameters are trainable"
        (grounder,) = [line for line in lines if line.startswith("  grounder")]
        assert grounder.endswith(" at 0.0005 and 5e-05")
        (language,) = [line for line in lines if line.startswith("  language_model")]
        assert "trainable            96 at" in language
        assert language.endswith(" frozen")
        (tower,) = [line for line in lines if line.startswith("  vision_tower")]
        assert tower.endswith("parameters  frozen")


class TestRates:
    RECIPE = recipe("chat", learning_rate=1e-3, vision_lr_multiplier=0.5, backbone_lr_multiplier=0.1, weight_decay=0.2)

    @pytest.mark.parametrize(
        ("name", "factor"),
        [
            ("model.language_model.layers.0.self_attn.q_proj.weight", 1.0),
            ("model.lm_head.weight", 1.0),
            ("model.multi_modal_projector.linear_1.weight", 1.0),
            ("model.phrase_projector.weight", 1.0),
            ("model.vision_tower.anything", 0.5),
            ("class_phrases.embeds", 0.5),
            ("model.grounder.mask_head.layers.0.weight", 0.5),
            ("model.grounder.backbone.encoder.layers.0.weight", 0.05),
            ("model.visual_prompt_encoder.backbone.embeddings.weight", 0.05),
            ("model.visual_prompt_encoder.query_decoder.box_head.layers.0.weight", 0.5),
            ("model.grounder.pixel_decoder.encoder.layers.0.self_attn.sampling_offsets.bias", 0.05),
            ("model.grounder.query_decoder.reference_points.weight", 0.05),
            ("model.language_model.backbone_like.weight", 1.0),
        ],
    )
    def test_each_name_has_its_factors(self, name: str, factor: float) -> None:
        assert learning_rate_of(name, self.RECIPE) == pytest.approx(1e-3 * factor)

    @pytest.mark.parametrize("flavour", FLAVOURS)
    def test_every_learning_parameter_is_in_one_group_with_its_rate_and_decay(self, flavour: str) -> None:
        model = training_model(flavour)
        set_trainable(model, stage_plan(self.RECIPE), NEW_TOKENS)
        named = [(f"model.{name}", one) for name, one in model.named_parameters()]
        groups = parameter_groups(named, self.RECIPE)
        found = {id(one): group for group in groups for one in group["params"]}
        assert len(found) == sum(len(group["params"]) for group in groups)
        assert found.keys() == {id(one) for _, one in named if one.requires_grad}
        for name, one in named:
            if one.requires_grad:
                assert found[id(one)]["lr"] == learning_rate_of(name, self.RECIPE)
                assert found[id(one)]["weight_decay"] == (0.2 if one.ndim > 1 else 0.0), name
        slow = {name for name, one in named if one.requires_grad and found[id(one)]["lr"] == pytest.approx(5e-5)}
        assert any(".backbone." in name for name in slow)
        assert flavour == "shared" or any(".sampling_offsets." in name for name in slow)

    def test_the_decay_leaves_norms_biases_and_single_rows_alone(self) -> None:
        model = untied()
        one = recipe("align", weight_decay=0.2)
        set_trainable(model, stage_plan(one), NEW_TOKENS)
        groups = parameter_groups(model.named_parameters(), one)
        tables = {id(model.get_input_embeddings().weight), id(model.lm_head.weight)}
        decays = {group["weight_decay"] for group in groups for one in group["params"] if id(one) in tables}
        assert decays == {0.0}
        assert all(one.ndim > 1 for group in groups if group["weight_decay"] for one in group["params"])


def tables(model: LlavaGroundingForConditionalGeneration) -> list[nn.Parameter]:
    return list({id(one): one for one in (model.get_input_embeddings().weight, model.lm_head.weight)}.values())


class TestNewRows:
    @pytest.mark.parametrize("kind", ["tied", "untied"])
    def test_after_steps_only_the_rows_of_our_tokens_have_moved(self, kind: str, tmp_path: Path) -> None:
        setup = training_setup(
            tmp_path, flavour="shared" if kind == "tied" else "official", stage="align", weight_decay=0.3
        )
        model, seg = setup.model, setup.processor.tokens.ids.seg
        assert len(tables(model)) == (1 if kind == "tied" else 2)
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        optimizer = torch.optim.AdamW(parameter_groups(setup.training_module.named_parameters(), setup.recipe))
        for delivery in islice(setup.stream(), 2):
            optimizer.zero_grad()
            setup.training_module(delivery.batch)["loss"].backward()
            optimizer.step()
        names = {id(one): name for name, one in model.named_parameters()}
        for table in tables(model):
            assert moved_rows(before[names[id(table)]], table) == [seg]
        still = [
            name
            for name, one in model.named_parameters()
            if name.startswith(("language_model.", "visual_prompt_encoder.")) and id(one) not in map(id, tables(model))
        ]
        assert all(torch.equal(before[name], model.get_parameter(name)) for name in still)
        for part in ("multi_modal_projector.", "grounder."):
            assert any(not torch.equal(before[name], one) for name, one in model.named_parameters() if part in name)

    def test_where_nothing_is_to_learn_beside_there_are_none(self) -> None:
        model = untied()
        set_trainable(model, stage_plan(recipe("visual_prompt")), NEW_TOKENS)
        assert not any(table.requires_grad for table in tables(model))
        set_trainable(model, stage_plan(recipe("align")), [])
        assert not any(table.requires_grad for table in tables(model))

    def test_gradients_through_both_ends_of_a_tied_table_are_kept_to_the_rows(self) -> None:
        model = training_model()
        set_trainable(model, stage_plan(recipe("align")), [8])
        table = model.get_input_embeddings().weight
        (model.lm_head(torch.ones(1, 32)).sum() + model.get_input_embeddings()(torch.arange(20)).sum()).backward()
        assert table.grad[8].abs().min() > 0
        assert table.grad.abs().sum() == table.grad[8].abs().sum()


class TestAdapters:
    @pytest.mark.parametrize("flavour", ["shared", "official"])
    def test_of_the_language_model_adapters_and_new_rows_learn(self, flavour: str) -> None:
        parts = {part.name: part for part in plan("grounded_chat", flavour, lora={"rank": 2, "targets": ["q_proj"]})}
        adapters = 2 * 2 * (2 * 32)  # layers, matrices, rank * width
        assert parts["language_model"].trainable == adapters + len(NEW_TOKENS) * 32
        if flavour == "official":
            assert parts["lm_head"].trainable == len(NEW_TOKENS) * 32
        assert parts["grounder"].frozen == 0

    def test_a_frozen_language_model_keeps_its_adapters_at_rest(self) -> None:
        model = untied()
        one = recipe("chat", lora={"rank": 2}, freeze=["language_model", "lm_head"])
        add_adapters(model, LoraSettings(rank=2))
        set_trainable(model, stage_plan(one), [])
        assert not any(parameter.requires_grad for parameter in model.language_model.parameters())


def moved_rows(before: Tensor, after: Tensor) -> list[int]:
    return (before != after.detach()).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
@pytest.mark.parametrize("values", [{"stage": "align"}, {"stage": "grounded_chat", "lora": {}}])
def test_single_rows_are_not_shared_between_processes(sharding: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"sharding `{sharding}` cannot train single rows"):
        stage_plan(recipe_of({**values, "sharding": sharding}))
    assert stage_plan(recipe_of({**values, "sharding": "zero2"})).new_rows
