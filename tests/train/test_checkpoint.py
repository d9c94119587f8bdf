"""What a run keeps: it comes back as it was, an older one stays until the new one is whole, the oldest go."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import NAMES, four_samples
from safetensors.torch import load_file, save_file
from small_training import class_phrases, recipe, training_model, training_processor
from torch import Tensor

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.errors import CheckpointError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train import checkpoint
from llava_grounding.train.adapters import add_adapters
from llava_grounding.train.batching.batches import chat_item, collate_chat
from llava_grounding.train.checkpoint import (
    CLASS_PHRASE_FILES,
    last_checkpoint,
    load_class_phrases,
    load_training_module,
    remove_old,
    save_phrases,
    save_training_module,
    save_whole,
)
from llava_grounding.train.plan import set_trainable, stage_plan
from llava_grounding.train.recipe import LoraSettings
from llava_grounding.train.training_module import LossConfig, TrainingModule


def training_module(
    seed: int = 0,
    flavour: str = "shared",
    lora: LoraSettings | None = None,
    classes: bool = True,
    base: int | None = None,
) -> TrainingModule:
    """A fresh training_module, adapters on it if so said; `base` seeds the model where it differs from what learns."""
    values = {"lora": {"rank": lora.rank, "targets": list(lora.targets)}} if lora else {}
    one = recipe("chat", class_task=classes, **values)
    model = training_model(flavour, seed=seed if base is None else base)
    torch.manual_seed(100 + seed)
    if lora is not None:
        add_adapters(model, lora)
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.2)
    plan = stage_plan(one)
    set_trainable(model, plan, [6, 7, 8])
    return TrainingModule(model, class_phrases(seed) if classes else None, LossConfig.of(one, plan))


def differences(first: TrainingModule, second: TrainingModule) -> list[str]:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    return [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


LORA = LoraSettings(rank=2, targets=("q_proj", "down_proj"))


class TestTrainingModules:
    @pytest.mark.parametrize("flavour", ["shared", "official", "siglip"])
    def test_all_of_one_comes_back(self, flavour: str, tmp_path: Path) -> None:
        kept, fresh = training_module(1, flavour), training_module(2, flavour)
        assert differences(kept, fresh)
        save_training_module(kept, training_processor(flavour), tmp_path / "new")
        load_training_module(fresh, tmp_path / "new")
        assert differences(kept, fresh) == []
        tied = fresh.model.lm_head.weight is fresh.model.get_input_embeddings().weight
        assert tied == (flavour != "official")

    def test_a_module_without_class_phrases_comes_back_too(self, tmp_path: Path) -> None:
        kept, fresh = training_module(1, classes=False), training_module(2, classes=False)
        save_training_module(kept, training_processor(), tmp_path)
        assert not any((tmp_path / name).exists() for name in CLASS_PHRASE_FILES)
        load_training_module(fresh, tmp_path)
        assert differences(kept, fresh) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("flavour", ["shared", "official", "siglip"])
    def test_the_checkpoint_is_a_model_to_start_from(self, flavour: str, tmp_path: Path) -> None:
        kept = training_module(1, flavour)
        save_training_module(kept, training_processor(flavour), tmp_path)
        loaded = load_checkpoint(tmp_path, "cpu", "float32").model
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in kept.model.state_dict().items())
        assert load_class_phrases(tmp_path).names == NAMES

    def test_with_adapters_only_what_learns_is_kept(self, tmp_path: Path) -> None:
        kept, fresh = training_module(1, lora=LORA, base=0), training_module(2, lora=LORA, base=0)
        save_training_module(kept, training_processor(), tmp_path)
        (file,) = tmp_path.glob("*.safetensors")
        names = set(load_file(file))
        counted = {name for name in names if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
        assert counted
        assert names - counted == {name for name, one in kept.named_parameters() if one.requires_grad}
        assert not any("base_layer" in name for name in names)
        load_training_module(fresh, tmp_path)
        assert [name for name in differences(kept, fresh) if name in names] == []

    def test_with_adapters_batch_statistics_come_back_too(self, tmp_path: Path) -> None:
        kept, fresh = training_module(1, lora=LORA, base=0), training_module(2, lora=LORA, base=0)
        processor = training_processor()
        item = chat_item(four_samples()[0], processor, 1, np.random.default_rng(0))
        kept.train()(collate_chat([item, item], processor, kept.class_phrases.index))
        save_training_module(kept, processor, tmp_path)
        load_training_module(fresh, tmp_path)
        assert differences(kept, fresh) == []

    def test_a_state_gathered_elsewhere_is_kept_instead(self, tmp_path: Path) -> None:
        kept, elsewhere, fresh = training_module(1), training_module(3), training_module(2)
        save_training_module(kept, training_processor(), tmp_path, elsewhere.state_dict())
        load_training_module(fresh, tmp_path)
        assert differences(elsewhere, fresh) == []


class TestDamage:
    @pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
    @pytest.mark.parametrize("cut", [0, 9, 2000])
    def test_a_file_cut_short_is_named(self, lora: LoraSettings | None, cut: int, tmp_path: Path) -> None:
        save_training_module(training_module(1, lora=lora), training_processor(), tmp_path)
        for path in tmp_path.glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(CheckpointError) as caught:
            load_training_module(training_module(2, lora=lora), tmp_path)
        assert str(caught.value).startswith(f"the checkpoint `{tmp_path}` is damaged, or of another model: ")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("phrase_projector.bias"), "is of another model: model.phrase_projector.bias"),
            (lambda state: state.update(extra=torch.zeros(1)), "is of another model: model.extra"),
            (
                lambda state: state.update({"phrase_projector.bias": torch.zeros(3)}),
                "another model: Error.*bias: .*[^\\n]$",
            ),
        ],
    )
    def test_what_is_missing_too_many_or_of_another_shape_is_named(
        self, change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
    ) -> None:
        save_training_module(training_module(1), training_processor(), tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        change(state)
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            load_training_module(training_module(2), tmp_path)

    def test_of_another_kind_of_run_is_named(self, tmp_path: Path) -> None:
        save_training_module(training_module(1), training_processor(), tmp_path / "whole")
        save_training_module(training_module(1, lora=LORA), training_processor(), tmp_path / "adapted")
        save_training_module(training_module(1, classes=False), training_processor(), tmp_path / "silent")
        other = training_module(2, lora=LoraSettings(rank=4, targets=LORA.targets))
        for name, into in [
            ("whole", training_module(2, lora=LORA)),
            ("adapted", training_module(2)),
            ("adapted", other),
            ("silent", training_module(2)),
            ("whole", training_module(2, classes=False)),
            ("whole", training_module(2, "official")),
        ]:
            with pytest.raises(CheckpointError, match=f"the checkpoint `{tmp_path / name}` is .*of another model: "):
                load_training_module(into, tmp_path / name)

    def test_an_empty_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"has no model.safetensors"):
            load_training_module(training_module(), tmp_path)

    def test_class_phrases_that_are_not_there_or_damaged_are_named(self, tmp_path: Path) -> None:
        save_phrases(class_phrases(3), tmp_path)
        again = load_class_phrases(tmp_path)
        assert again.names == NAMES
        assert torch.equal(again.embeds, class_phrases(3).embeds)
        (tmp_path / CLASS_PHRASE_FILES[1]).write_text(json.dumps(NAMES[:-1]))
        told = f"`{tmp_path}` holds no class phrases of an earlier stage"
        with pytest.raises(CheckpointError, match=told):
            load_class_phrases(tmp_path)
        for name in CLASS_PHRASE_FILES:
            (tmp_path / name).write_bytes(b"x")
            with pytest.raises(CheckpointError, match=told):
                load_class_phrases(tmp_path)
        with pytest.raises(CheckpointError, match="none` holds no class phrases"):
            load_class_phrases(tmp_path / "none")


class TestWhole:
    def test_a_folder_is_written_over_an_older_one(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            save_whole(training_module(seed), training_processor(), tmp_path / "last")
        assert [path.name for path in tmp_path.iterdir()] == ["last"]
        fresh = training_module(3)
        load_training_module(fresh, tmp_path / "last")
        assert differences(training_module(2), fresh) == []

    def test_a_failure_in_the_middle_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_whole(training_module(1), training_processor(), tmp_path / "last")

        def full(*arguments: object) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_phrases", full)
            with pytest.raises(CheckpointError, match="no space left"):
                save_whole(training_module(2), training_processor(), tmp_path / "last")
        fresh = training_module(3)
        load_training_module(fresh, tmp_path / "last")
        assert differences(training_module(1), fresh) == []
        save_whole(training_module(2), training_processor(), tmp_path / "last")  # what is left over is in nobody's way
        assert [path.name for path in tmp_path.iterdir()] == ["last"]

    def test_it_is_on_the_disk_before_it_takes_the_place_of_an_older_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settled: list[tuple[int, int]] = []
        honest = os.fsync

        def fsync(handle: int) -> None:
            found = os.fstat(handle)
            settled.append((found.st_dev, found.st_ino))
            honest(handle)

        rename = Path.replace

        def replace_settled(path: Path, target: Path) -> None:
            if target.name == "last":
                for one in (path, *path.iterdir()):
                    found = one.stat()
                    assert (found.st_dev, found.st_ino) in settled, one
            rename(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace_settled)
        save_whole(training_module(1), training_processor(), tmp_path / "last")
        assert len(settled) > 3

    def test_adapters_are_merged_and_stay_on_the_module(self, tmp_path: Path) -> None:
        kept = training_module(1, lora=LORA).eval()
        before = {name: value.clone() for name, value in kept.state_dict().items()}
        save_whole(kept, training_processor(), tmp_path / "last")
        assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
        loaded = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path / "last", dtype=torch.float32)
        assert not any("lora" in name for name in loaded.state_dict())
        ids = torch.tensor([[20, 21, 22, 30]])
        ours, theirs = kept.model.language_model(ids), loaded.eval().language_model(ids)
        torch.testing.assert_close(theirs.last_hidden_state, ours.last_hidden_state, rtol=1e-4, atol=1e-5)

    def test_adapters_of_a_gathered_state_are_merged_from_it(self, tmp_path: Path) -> None:
        kept, elsewhere = training_module(1, lora=LORA), training_module(2, lora=LORA)
        save_whole(kept, training_processor(), tmp_path / "gathered", elsewhere.state_dict())
        save_whole(elsewhere, training_processor(), tmp_path / "wanted")
        files = [load_file(tmp_path / name / "model.safetensors") for name in ("gathered", "wanted")]
        assert files[0].keys() == files[1].keys()
        assert [name for name, value in files[0].items() if not torch.equal(value, files[1][name])] == []


class TestFolders:
    def test_the_newest_is_the_one_with_the_largest_number(self, tmp_path: Path) -> None:
        assert last_checkpoint(tmp_path) is None
        assert last_checkpoint(tmp_path / "none") is None
        for name in ("checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-x", "checkpoint-200.old", "best"):
            (tmp_path / name).mkdir()
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"

    @pytest.mark.parametrize(("keep", "left"), [(1, {"100"}), (2, {"100", "20"}), (9, {"100", "20", "3"})])
    def test_only_the_newest_are_kept(self, keep: int, left: set[str], tmp_path: Path) -> None:
        for number in (3, 100, 20):
            (tmp_path / f"checkpoint-{number}").mkdir()
            (tmp_path / f"checkpoint-{number}/file").write_text("x")
        (tmp_path / "best").mkdir()
        remove_old(tmp_path, keep)
        assert {path.name for path in tmp_path.iterdir()} == {"best", *(f"checkpoint-{number}" for number in left)}
