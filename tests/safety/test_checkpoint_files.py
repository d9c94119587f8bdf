"""Folders of a model made by somebody who means harm, or by accident: each is one sentence that names the file.

Nothing of them is run, fetched or asked for on stdin, and no number in them costs anything before it is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from llava_grounding import checkpoint_files
from llava_grounding.checkpoint_files import check_values, plain_file, stored_shapes
from llava_grounding.checkpoints import find_config, load_checkpoint, without_progress_bars
from llava_grounding.cli.doctor import measure
from llava_grounding.errors import CheckpointError, LlavaGroundingError, UsageError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from tiny_model import tiny_parts

Change = Callable[[Path], object]
CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Thing: pass\n"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model, with a module that notes when it is imported."""
    folder = tmp_path_factory.mktemp("safety") / "tiny"
    for part in tiny_parts("shared"):
        part.save_pretrained(folder)
    (folder / "evil.py").write_text(CODE, encoding="utf-8")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture(autouse=True)
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks something is answered by a failure."""

    def refuse(*_: object) -> str:
        raise AssertionError("something was asked on stdin")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(sys, "stdin", None)


def edit(name: str, *path: str, **values: Any) -> Change:
    """Put values into an object of a JSON file."""

    def change(folder: Path) -> None:
        file = folder / name
        whole = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        place = whole
        for key in path:
            place = place[key]
        place.update(values)
        file.write_text(json.dumps(whole), encoding="utf-8")

    return change


def config(*path: str, **values: Any) -> Change:
    return edit("config.json", *path, **values)


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def moved_out(name: str) -> Change:
    def change(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return change


def index(shard: Callable[[Path], str]) -> Change:
    """All weights in a file that an index names in some way; a whole one lies beside the index."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
        weights.popitem()
        save_file(weights, folder.parent / "elsewhere.safetensors", metadata={"format": "pt"})
        names = dict.fromkeys(load_file(folder / "elsewhere.safetensors"), shard(folder))
        values = {"metadata": {"total_size": 1}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(values), encoding="utf-8")

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        values = load_file(folder / "model.safetensors")
        change(values)
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def nested(key: str, depth: int) -> str:
    return f'{{"{key}": ' * depth + "1" + "}" * depth


def grow(count: int) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 20}
    return {"normalizer": {"type": "Sequence", "normalizers": [step] * count}}


def regex(pattern: str) -> dict[str, Any]:
    return {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
    }


_MAP = {"AutoConfig": "evil.Thing", "AutoModelForImageTextToText": "evil.Thing", "AutoTokenizer": ["evil.Thing", None]}
NORM = "language_model.norm.weight"
_BACKBONE = ("grounder_config", "backbone_config")
HOSTILE: dict[str, tuple[Change, str]] = {
    # Code, other places, packages
    "code in config.json": (config(auto_map=_MAP), r"config\.json in `.*`: `auto_map` names code"),
    "code in a part": (config(*_BACKBONE, auto_map=_MAP), r"`grounder_config\.backbone_config\.auto_map` names code"),
    "code in the text model": (config("text_config", auto_map=_MAP), r"`text_config\.auto_map` names code"),
    "code for the tokenizer": (
        edit("tokenizer_config.json", auto_map=_MAP),
        r"tokenizer_config\.json in `.*`: `auto_map` names code",
    ),
    "code for the tokenizer, in the old form": (
        edit("tokenizer_config.json", auto_map=["evil.Thing", None]),
        r"tokenizer_config\.json in `.*`: `auto_map` names code",
    ),
    "code of another repository": (
        edit("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "some/where--evil.Thing"]}),
        "`auto_map` names code",
    ),
    "code for the processor": (
        edit("processor_config.json", auto_map={"AutoProcessor": "evil.Thing"}),
        r"processor_config\.json in `.*`: `auto_map` names code",
    ),
    "code for generation": (
        edit("generation_config.json", auto_map=_MAP),
        r"generation_config\.json in `.*`: `auto_map` names code",
    ),
    "code in an image processor": (edit("preprocessor_config.json", auto_map=_MAP), r"preprocessor_config\.json in"),
    "code in special tokens": (edit("special_tokens_map.json", auto_map=_MAP), r"special_tokens_map\.json in"),
    "a language model as backbone": (
        config(*_BACKBONE, model_type="gpt2"),
        "config.json in .* a `gpt2` model cannot be a part of this one",
    ),
    "a model of another package as backbone": (
        config("grounder_config", backbone_config={"model_type": "timm_backbone", "backbone": "resnet18"}),
        "`grounder_config.backbone_config.backbone` names a model elsewhere",
    ),
    "weights from the hub for the backbone": (
        config(*_BACKBONE, use_pretrained_backbone=True),
        "use_pretrained_backbone` asks for weights from the hub",
    ),
    "itself as its language model": (
        config(text_config={"model_type": "llava_grounding"}),
        "a `llava_grounding` model cannot be a part of this one",
    ),
    "another place": (config("text_config", _name_or_path="some/where"), "`text_config._name_or_path` names another"),
    "kernels as attention": (
        config(_attn_implementation="kernels-community/anything"),
        r"`_attn_implementation` must be one of eager, sdpa, flash_attention_2, got 'kernels-community/anything'",
    ),
    "kernels as attention, in the other spelling": (
        config(attn_implementation="some/kernel"),
        "`attn_implementation` must be one of",
    ),
    "kernels as attention, of a part": (
        config("text_config", _attn_implementation_internal="some/kernel"),
        "`text_config._attn_implementation_internal` must be one of",
    ),
    "kernels as attention, part by part": (
        config(attn_implementation={"text_config": "flash|some/kernel"}),
        "`attn_implementation` must be one of",
    ),
    "flash attention that would come from the hub": (
        config(attn_implementation="flash_attention_2"),
        "`attn_implementation` asks for flash_attention_2, which needs the package flash_attn",
    ),
    "experts from the hub": (
        config("text_config", experts_implementation="sonicmoe"),
        "`text_config.experts_implementation` must be one of",
    ),
    "a quantiser": (config(quantization_config={"quant_method": "gptq"}), "`quantization_config` asks for a quantiser"),
    "other weights": (config("text_config", transformers_weights="x.bin"), "names another file of weights"),
    "a module for a type": (config("text_config", dtype="hub"), "`text_config.dtype` must be one of float32"),
    "an unknown key with a bar": (config(_some_switch=True), "unknown key `_some_switch`"),
    "another file as tokenizer": (
        edit("tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.json"]),
        "`fast_tokenizer_files` names another tokenizer",
    ),
    "an unknown class of tokenizer": (
        edit("tokenizer_config.json", tokenizer_class="evil.Tok"),
        r"tokenizer_config\.json in `.*` names the class 'evil\.Tok', which transformers does not have",
    ),
    "an adapter": (
        text("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "some/where"}'),
        r"adapter_config\.json in `.*` is of an adapter",
    ),
    "a part of a running training": (
        lambda folder: shutil.copy(
            folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors"
        ),
        "is a part of a running training",
    ),
    # The file that was checked is the file that is loaded
    "a shard above": (index(lambda _: "../elsewhere.safetensors"), "shard '../elsewhere.safetensors' is no name"),
    "a shard anywhere": (
        index(lambda folder: str(folder.parent / "elsewhere.safetensors")),
        r"model\.safetensors\.index\.json in `.*` is damaged: the shard '/.*' is no name",
    ),
    "a shard below": (index(lambda _: "below/elsewhere.safetensors"), "shard 'below/elsewhere.safetensors' is no name"),
    "a pickled shard": (index(lambda _: "elsewhere.bin"), "'elsewhere.bin' is no name of a .safetensors file"),
    "weights behind a link": (
        moved_out("model.safetensors"),
        "model.safetensors in .* is a link that leads out of the folder",
    ),
    "a configuration behind a link": (
        moved_out("config.json"),
        "config.json in .* is a link that leads out of the folder",
    ),
    "a device": (link("config.json", os.devnull), "config.json in .* is no file that can be read"),
    "a pipe": (pipe("config.json"), "config.json in .* is no file that can be read"),
    "a pipe as template": (pipe("chat_template.jinja"), r"chat_template\.jinja in .* is no file that can be read"),
    "a pipe as tokens": (pipe("added_tokens.json"), r"added_tokens\.json in .* is no file that can be read"),
    "a link to nothing": (link("model.safetensors", "nothing"), "model.safetensors in .* is missing"),
    # Cost
    "labels": (config(num_labels=10**9), "`num_labels` must be at most 1,000, got 1,000,000,000"),
    "labels of a part": (config("text_config", num_labels=10**9), "`text_config.num_labels` must be at most 1,000"),
    "layers of the language model": (
        config("text_config", num_hidden_layers=10**7),
        "`text_config.num_hidden_layers` must be at most 1,000, got 10,000,000",
    ),
    "layers of the decoder": (config("grounder_config", decoder_layers=10**7), "decoder_layers` must be at most 1,000"),
    "blocks of the backbone": (config(*_BACKBONE, depths=[1, 1, 1, 10**7]), "backbone_config.depths` must be at most"),
    "more layers than are stored": (
        config("text_config", num_hidden_layers=900),
        r"config\.json in `.*` does not fit its \d+ weights: the configuration asks for more than \d+ weights",
    ),
    "levels": (config("grounder_config", num_levels=900), "grounder_config.num_levels must be 1 to 8, got 900"),
    "a large canvas": (config("grounder_config", image_size=10**6), "image_size must be 32 to 2,048, got 1000000"),
    "a tower that is not there": (
        edit("processor_config.json", tower={"size": 1000}),
        "the size of the vision tower's image is None in one and 1000 in the other",
    ),
    "a tower of no size": (edit("processor_config.json", tower={"size": 10**6}), "tower.size must be 1 to 2,048"),
    "a normaliser that multiplies": (edit("tokenizer.json", **grow(8)), "`normalizer` makes too much of a text"),
    "a normaliser of an unknown kind": (
        edit("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
        r"tokenizer\.json in `.*`: `normalizer` of the kind 'Precompiled' is not read",
    ),
    "an expression that never ends": (
        edit("tokenizer.json", **regex(r"(a|a)*(a|a)*b|(\w+\w+)+\d")),
        "`pre_tokenizer` has a regular expression that could take for ever",
    ),
    "padding without end": (
        edit("tokenizer.json", padding={"strategy": {"Fixed": 10**9}}),
        "`padding` must be null or to the longest of a batch",
    ),
    "many beams": (edit("generation_config.json", num_beams=10**9), "`num_beams` must be at most 1,000"),
    "whole numbers for weights": (
        weights(lambda values: values.update({name: value.to(torch.int8) for name, value in values.items()})),
        r"model\.safetensors in `.*` does not fit config\.json: \d+ weights are of another type \(.* is I8, expected F",
    ),
    "complex numbers for a weight": (
        weights(lambda values: values.update({NORM: values[NORM].to(torch.complex64)})),
        r"1 weight is of another type \(language_model\.norm\.weight is C64, expected F64, F32, F16, BF16\)",
    ),
    "a cache of a size that a file names": (
        edit("generation_config.json", cache_implementation="static", max_new_tokens=2**50),
        r"generation_config\.json in `.*`: `cache_implementation` chooses a cache",
    ),
    "a cache in the configuration of the language model": (
        config("text_config", cache_implementation="static"),
        r"config\.json in `.*`: `cache_implementation` chooses a cache",
    ),
    "a configuration of many megabytes": (text("config.json", " " * 5_000_000), "config.json in .* is too large"),
    "deep": (
        text("config.json", nested("text_config", 100_000)),
        "config.json in .* is damaged: it is nested too deep",
    ),
    "deep enough": (config("text_config", x=json.loads(nested("x", 200))), "too many values, or is nested too deep"),
    "a number of many digits": (text("config.json", '{"a": ' + "1" * 10_000 + "}"), "config.json in .* is damaged"),
    "a number beyond all": (config("text_config", rms_norm_eps=float("inf")), "Infinity is no number of JSON"),
    "half a character": (
        text("config.json", '{"model_type": "llava_grounding", "projector": "\\ud800"}'),
        "config.json in .* is damaged",
    ),
    "a deep index": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text(nested("weight_map", 100_000), encoding="utf-8"),
        ),
        r"model\.safetensors\.index\.json in `.*` is damaged: it is nested too deep",
    ),
    # Values that build nothing
    "no heads": (config("grounder_config", num_heads=0), "grounder_config.num_heads must be 1 to 256, got 0"),
    "heads that do not divide": (config("grounder_config", num_heads=7), "must be a multiple of its num_heads"),
    "no heads of the language model": (
        config("text_config", num_attention_heads=0),
        "no `llama` model is as described",
    ),
    "a negative vocabulary": (
        config("text_config", vocab_size=-1),
        r"config\.json in `.*` does not fit its \d+ weights",
    ),
    "no stages": (config(*_BACKBONE, hidden_sizes=[]), r"config\.json in `.*` do"),
    "an unknown activation": (config("text_config", hidden_act="rela"), r"config\.json in `.*` does not fit its"),
    "words for a number": (config("text_config", rms_norm_eps="small"), "no `llama` model is as described"),
    "a list for a part": (config(grounder_config=[1]), "grounder_config must be an object"),
    "a number for a part": (config(text_config=3), "a part of the configuration must be an object"),
    "an odd rotation": (config("text_config", rope_parameters={"rope_type": "evil", "rope_theta": 1.0}), "config.json"),
    "no deviation": (
        edit("processor_config.json", "canvas", std=[0, 0, 0]),
        "canvas.std must be three numbers above 0",
    ),
    "no mean": (edit("processor_config.json", "canvas", mean=[]), "canvas.mean must be three numbers"),
    "a bright margin": (
        edit("processor_config.json", "canvas", pad_value=10**9),
        "canvas.pad_value must be an integer",
    ),
    "an endless image": (edit("processor_config.json", image_sequence_length=float("inf")), "Infinity is no number"),
    "a template of numbers": (edit("processor_config.json", "template", user=3), "template.user must be a text"),
    "a template without an image": (edit("processor_config.json", "template", image=""), "template.image must have"),
    "no tokenizer model": (text("tokenizer.json", "{}"), "the tokenizer of the checkpoint in .* is missing or damaged"),
    "tokens beyond the model": (
        edit("added_tokens.json", **{f"<{number}>": 600 + number for number in range(300)}),
        "the tokenizer in .* has .* tokens, but the model of config.json has only 512",
    ),
    "weights that are no numbers": (
        weights(lambda values: values["language_model.norm.weight"].fill_(float("nan"))),
        "the weights in .* are damaged: language_model.norm.weight has values that are no numbers",
    ),
    "weights without end": (
        weights(lambda values: values["grounder.query_decoder.norm.weight"].fill_(float("inf"))),
        "grounder.query_decoder.norm.weight has values that are no numbers",
    ),
    "a head of lies": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        "model.safetensors in .* is damaged or was cut short",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_sentence_that_names_the_file(name: str, folder: Path) -> None:
    change, words = HOSTILE[name]
    change(folder)
    with pytest.raises(LlavaGroundingError, match=words) as caught:
        load_checkpoint(folder, "cpu", None)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1000
    assert not (folder / "ran").exists()
    assert "evil" not in sys.modules


IN_CONFIG = ["code in config.json", "code in a part", "kernels as attention", "labels", "layers of the language model"]


@pytest.mark.parametrize("name", IN_CONFIG)
def test_every_way_to_a_configuration_passes_the_same_door(name: str, folder: Path) -> None:
    change, words = HOSTILE[name]
    words = words.removeprefix(r"config\.json in `.*`: ")
    change(folder)
    for way in (find_config, measure, AutoConfig.from_pretrained, AutoModelForImageTextToText.from_pretrained):
        with pytest.raises(LlavaGroundingError, match=words):
            way(str(folder))  # type: ignore[operator]
    assert not (folder / "ran").exists()


IN_FILES = [
    "code for the tokenizer",
    "code for the processor",
    "code for generation",
    "an adapter",
    "a shard above",
    "weights behind a link",
    "a pipe as template",
]


@pytest.mark.parametrize("name", IN_FILES)
def test_the_classes_of_transformers_pass_the_same_door(name: str, folder: Path) -> None:
    change, words = HOSTILE[name]
    change(folder)
    for way in (AutoModelForImageTextToText.from_pretrained, LlavaGroundingProcessor.from_pretrained):
        with pytest.raises(CheckpointError, match=words):
            way(str(folder))
    with pytest.raises(CheckpointError, match=words):
        AutoProcessor.from_pretrained(str(folder))
    assert not (folder / "ran").exists()


def test_a_folder_that_lacks_a_weight_is_refused_by_the_auto_class_as_well(folder: Path) -> None:
    weights(lambda values: values.pop("language_model.norm.weight"))(folder)
    with without_progress_bars(), pytest.raises(CheckpointError, match=r"lack language_model\.norm\.weight$"):
        AutoModelForImageTextToText.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.int64])
def test_weights_of_another_type_are_refused_by_the_auto_class_as_well(dtype: torch.dtype, folder: Path) -> None:
    weights(lambda values: values.update({NORM: values[NORM].to(dtype)}))(folder)
    words = r"are of another type: language_model\.norm\.weight is \w+, expected F64, F32, F16, BF16$"
    with without_progress_bars(), pytest.raises(CheckpointError, match=words):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_weights_that_are_no_numbers_are_refused_by_the_auto_class_as_well(folder: Path) -> None:
    weights(lambda values: values[NORM].fill_(torch.nan))(folder)
    words = r"are damaged: language_model\.norm\.weight has values that are no numbers$"
    with without_progress_bars(), pytest.raises(CheckpointError, match=words):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_pickles_are_not_read_even_if_asked_for(folder: Path) -> None:
    for wish in ({"use_safetensors": False}, {"gguf_file": "model.gguf"}):
        with pytest.raises(UsageError, match="a model is read from JSON and safetensors files alone"):
            LlavaGroundingForConditionalGeneration.from_pretrained(folder, **wish)


def test_auto_model_says_which_class_to_take(folder: Path) -> None:
    words = r"take AutoModelForImageTextToText, or LlavaGroundingForConditionalGeneration of llava_grounding"
    with pytest.raises(UsageError, match=words):
        AutoModel.from_pretrained(folder)
    with pytest.raises(UsageError, match=words):
        AutoModel.from_config(AutoConfig.from_pretrained(folder))


SAME = [
    ("score_threshold is 0.999 in one and 0.5 in the other", config(score_threshold=0.999)),
    ("score_function is softmax in one and sigmoid in the other", config(score_function="softmax")),
    ("nms_iou is 0.01 in one and 0.7 in the other", config(nms_iou=0.01)),
    ("pad_value is 0 in one and 128 in the other", config("grounder_config", pad_value=0)),
    ("image_mean is .*0.0, 0.0, 0.0.* in one", config("grounder_config", image_mean=[0.0, 0.0, 0.0])),
    ("image_std is .*1.0, 1.0, 1.0.* in one", config("grounder_config", image_std=[1.0, 1.0, 1.0])),
    ("the size of the canvas is 96 in one and 64 in the other", config("grounder_config", image_size=96)),
]


@pytest.mark.parametrize(("words", "change"), SAME)
def test_a_number_with_two_homes_must_be_the_same_in_both(words: str, change: Change, folder: Path) -> None:
    change(folder)
    both = rf"config\.json and processor_config\.json in `.*` do not belong together: {words}"
    for way in (lambda place: load_checkpoint(place, "cpu", None), LlavaGroundingProcessor.from_pretrained):
        with pytest.raises(CheckpointError, match=both):
            way(folder)


def test_the_former_key_of_the_score_function_is_refused_by_its_name_of_today(folder: Path) -> None:
    file = folder / "processor_config.json"
    file.write_text(file.read_text(encoding="utf-8").replace("score_function", "query_selection"), encoding="utf-8")
    words = r"`selection\.query_selection` is called `selection\.score_function` now"
    with pytest.raises(CheckpointError, match=words):
        LlavaGroundingProcessor.from_pretrained(folder)


def test_what_is_saved_of_a_loaded_model_names_no_place(folder: Path, tmp_path: Path) -> None:
    with without_progress_bars():
        model = AutoModelForImageTextToText.from_pretrained(folder)
        model.config.text_config._name_or_path = "some/where"
        model.save_pretrained(tmp_path / "again")
    LlavaGroundingProcessor.from_pretrained(folder).save_pretrained(tmp_path / "again")
    load_checkpoint(tmp_path / "again", "cpu", None)
    assert "some/where" not in (tmp_path / "again" / "config.json").read_text(encoding="utf-8")
    assert model.config.text_config.name_or_path == "some/where"


def test_the_hubs_cache_may_link_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--some--model" / "blobs"
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.suffix != ".py")):
        shutil.move(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert load_checkpoint(snapshot, "cpu", None).name == "abc"


def test_a_folder_behind_a_link_and_links_within_it_are_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.data")
    (folder / "model.safetensors").symlink_to("weights.data")
    (tmp_path / "link").symlink_to(folder)
    load_checkpoint(tmp_path / "link", "cpu", None)


def test_weights_of_several_files_are_each_where_the_index_says(folder: Path) -> None:
    values = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(values)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, some in parts.items():
        save_file({name: values[name] for name in some}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, some in parts.items() for name in some}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    assert stored_shapes(folder).keys() == set(names)
    load_checkpoint(folder, "cpu", None)
    path.write_text(json.dumps({"metadata": {}, "weight_map": {**places, "more": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="does not fit its files: only one of them has `more`"):
        load_checkpoint(folder, "cpu", None)
    path.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors\.index\.json in `.*` is damaged: it has no metadata"
    ):
        load_checkpoint(folder, "cpu", None)


@pytest.mark.parametrize("value", [None, "", False])
def test_keys_that_say_nothing_are_no_trouble(value: object) -> None:
    keys = ("auto_map", "quantization_config", "backbone", "_name_or_path", "use_timm_backbone", "attn_implementation")
    check_values({"text_config": {key: value for key in keys if value is None or key != "attn_implementation"}}, "here")


def test_attention_that_needs_its_package_is_taken_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "find_package", lambda name: name)
    check_values({"attn_implementation": {"text_config": "flash_attention_2", "": "sdpa"}}, "here")


def test_a_file_is_plain_or_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no file that can be read"):
        plain_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        plain_file(tmp_path / "nothing")
