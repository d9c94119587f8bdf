"""Finding and loading models: by name, folder or hub id, whole or with one sentence on what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from answer_checks import assert_same_answers
from llava_grounding import checkpoints
from llava_grounding.checkpoints import choose_device, choose_dtype, find_checkpoint, load_checkpoint
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.inference.engine import GroundedChat
from tiny_model import picture, saying, tiny_config, tiny_parts, tiny_weights

CHECKPOINT = GroundedChat.from_pretrained


@pytest.fixture(scope="session", params=["shared", "separate"])
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model of each kind."""
    return save(request.param, tmp_path_factory.mktemp("models") / f"tiny-{request.param}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model."""
    return save("shared", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A saved tiny model that may be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def save(kind: str, folder: Path, **kwargs: object) -> Path:
    model, processor = tiny_parts(kind)
    model.save_pretrained(folder, **kwargs)
    processor.save_pretrained(folder)
    return folder


def test_a_loaded_model_is_the_saved_one(any_folder: Path) -> None:
    kind = any_folder.name.removeprefix("tiny-")
    loaded = load_checkpoint(any_folder, "cpu", None)
    model, processor = tiny_parts(kind)
    assert loaded.name == any_folder.name
    assert loaded.autocast is None
    assert not loaded.model.training
    assert loaded.processor.settings == processor.settings
    state = loaded.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    buffers = dict(loaded.model.named_buffers())
    for name, value in model.named_buffers():
        assert torch.equal(buffers[name], value), name


def test_progress_bars_that_the_environment_forbids_stay_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = sys.modules["huggingface_hub.utils.tqdm"]  # hidden behind a class of the same name
    monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    load_checkpoint(folder, "cpu", "float32")  # without a warning
    assert huggingface_hub.utils.are_progress_bars_disabled()


def test_a_loaded_model_answers_like_the_saved_one(folder: Path, tmp_path: Path) -> None:
    raw = "See <g_s> a dog <g_e> <seg>."
    ours, loaded = GroundedChat(*tiny_parts("shared"), name="tiny"), CHECKPOINT(folder)
    answers = []
    for chat in (ours, loaded, CHECKPOINT(save("shared", tmp_path / "tiny", max_shard_size="50KB"))):
        with saying(chat, raw):
            answers.append(chat.ask(picture(), "Describe the image."))
    assert (tmp_path / "tiny" / "model.safetensors.index.json").is_file()
    assert_same_answers(answers[1], answers[0])
    assert_same_answers(answers[2], answers[0])


def test_half_precision_files_are_computed_in_single_precision(tmp_path: Path) -> None:
    model, processor = tiny_weights(tiny_config()), tiny_parts("shared")[1]
    half = {name: value.half() for name, value in model.state_dict().items() if value.is_floating_point()}
    model.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path, "cpu", None).model
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for name, value in loaded.state_dict().items():
        if name in half:
            assert torch.equal(value, half[name].float()), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_dtype_is_for_the_language_side_only(any_folder: Path, dtype: str) -> None:
    chat = CHECKPOINT(any_folder, "cpu", dtype)
    wide = load_checkpoint(any_folder, "cpu", "float32").model.state_dict()
    assert chat.model.language_model.embed_tokens.weight.dtype == getattr(torch, dtype)
    for name, value in chat.model.named_parameters():
        if name.startswith(("grounder", "visual_prompt_encoder")):
            assert value.dtype == torch.float32
            assert torch.equal(value, wide[name]), name
    with saying(chat, "See <g_s> a dog <g_e> <seg>."):
        answer = chat.ask(picture(), "Describe the image.")
    assert len(answer.phrases) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [("cpu", "cpu"), (torch.device("cpu"), "cpu"), (None, "cuda" if torch.cuda.is_available() else "cpu")],
)
def test_a_device_is_chosen_by_name(given: str | torch.device | None, expected: str) -> None:
    assert choose_device(given) == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "device must be cpu, cuda, cuda:N or mps, got `gpu`"),
        ("cuda:200", "device must be cpu, cuda, cuda:N or mps, got `cuda:200`"),
        ("cuda:-1", "device must be cpu, cuda, cuda:N or mps, got `cuda:-1`"),
        ("cuda:1\n", r"device must be cpu, cuda, cuda:N or mps, got `cuda:1\\n`"),
        ("cpu:3", "device must be cpu, cuda, cuda:N or mps, got `cpu:3`"),
        ("", "device must be cpu, cuda, cuda:N or mps, got ``"),
        ("cuda:99", r"device `cuda:99` is not there: this machine has \d+ CUDA devices; try `cpu`"),
        ("xpu", "device must be cpu, cuda, cuda:N or mps, got `xpu`"),
        ("meta", "got `meta`"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_device(device)


def test_mps_needs_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device `mps` is not there"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")


def test_a_dtype_is_chosen_by_name() -> None:
    assert choose_dtype(None) == choose_dtype("float32") == choose_dtype(torch.float32) == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype must be float32, bfloat16, float16, got `bfloat`; did you mean `bfl"):
        choose_dtype("bfloat")


def test_the_embedded_model_has_a_name_and_its_absence_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_WEIGHTS_FOLDER", folder.parent / "none")
    for source in (None, "nano"):
        with pytest.raises(CheckpointError, match="the embedded model `nano` is not in this installation; give"):
            find_checkpoint(source)
    monkeypatch.setattr(checkpoints, "_WEIGHTS_FOLDER", folder.parent)
    monkeypatch.setattr(checkpoints, "EMBEDDED_MODEL", folder.name)
    assert find_checkpoint(None) == find_checkpoint(folder.name) == (folder.name, folder)


def test_an_unknown_model_is_answered_with_what_there_is(tmp_path: Path) -> None:
    known = "expected `nano`, a folder with a model in it, or a hub id like `organisation/name`"
    with pytest.raises(ConfigError, match=f"unknown model `namo`; did you mean `nano`\\?; {known}"):
        find_checkpoint("namo")
    with pytest.raises(ConfigError, match=f"unknown model `{tmp_path}/none`; {known}"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(ConfigError, match=f"unknown model ``; {known}"):
        find_checkpoint("")
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ConfigError, match=f"`{file}` is a file, not a model; {known}"):
        find_checkpoint(str(file))


def test_a_hub_id_is_downloaded_without_code_or_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("someone/some-model") == ("someone/some-model", folder)
    assert asked == [("someone/some-model", ["*.json", "*.jinja", "*.model", "*.safetensors"])]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("x"), "the hub cannot be reached; the embedded model `nano` and folders work offline"),
        (HTTPError("x"), "the hub cannot be reached"),
        (
            RepositoryNotFoundError("x", response=mock.MagicMock()),
            "the hub has no model of that name",
        ),
    ],
)
def test_a_hub_that_fails_is_one_sentence(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConfigError, match=f"there is no folder `some/model`, and {words}"):
        find_checkpoint("some/model")


def edit_json(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


_NORM = "language_model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (remove("config.json"), r"holds no model: it has no config\.json"),
    "cut config": (cut("config.json", 200), r"config\.json in `.*` is damaged: "),
    "list config": (
        lambda folder: (folder / "config.json").write_text("[]"),
        r"config\.json in `.*` is damaged: expected a JSON object, got list",
    ),
    "other model": (
        edit_json("config.json", lambda values: values.update(model_type="llama")),
        r"config\.json in `.*` is of a `llama` model, expected `llava_grounding`",
    ),
    "bad setting": (
        edit_json("config.json", lambda values: values.update(phrase_state="somewhere")),
        r"config\.json in `.*` does not describe a model: phrase_state must be one of",
    ),
    "bad part": (
        edit_json("config.json", lambda values: values.update(text_config={"model_type": "lama"})),
        r"config\.json in `.*` does not describe a model: unknown model_type `lama`; did you mean `llama`",
    ),
    "no weights": (remove("model.safetensors"), r"has no model\.safetensors"),
    "pickle": (to_pickle, r"has no model\.safetensors; `pytorch_model\.bin` must be converted first"),
    "cut weights": (cut("model.safetensors", 100_000), r"model\.safetensors in `.*` is damaged or was cut short"),
    "empty weights": (cut("model.safetensors", 0), r"model\.safetensors in `.*` is damaged or was cut short"),
    "missing weight": (
        edit_weights(lambda weights: weights.pop(_NORM)),
        rf"model\.safetensors in `.*` does not fit config\.json: 1 weight is missing \({_NORM}\)",
    ),
    "unexpected weight": (
        edit_weights(lambda weights: weights.update(a=torch.ones(1), b=torch.ones(1))),
        r"does not fit config\.json: 2 weights are not expected \(a, b\)",
    ),
    "misshapen weight": (
        edit_weights(lambda weights: weights.update({_NORM: torch.ones(7)})),
        rf"1 weight is of another shape \({_NORM} is \(7,\), expected \(48,\)\)",
    ),
    "no tokenizer": (remove("tokenizer.json"), "the tokenizer of the checkpoint in .* is missing or damaged"),
    "no processor": (remove("processor_config.json"), r"processor_config\.json of the checkpoint in .* is missing"),
    "other tokenizer": (
        edit_json("config.json", lambda values: values.update(seg_token_id=7)),
        r"do not belong together: the id of <seg> is 7 in one and 8 in the other",
    ),
    "other canvas": (
        edit_json("processor_config.json", lambda values: values["canvas"].update(size=96)),  # type: ignore[attr-defined]
        "the size of the canvas is 64 in one and 96 in the other",
    ),
    "missing shard": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        ),
        r"model-1\.safetensors in `.*` is missing",
    ),
    "damaged index": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text("{}"),
        ),
        r"model\.safetensors\.index\.json in `.*` is damaged: it has no weight_map",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_one_sentence_that_names_the_file(name: str, copy: Path) -> None:
    damage, words = DAMAGES[name]
    damage(copy)
    with pytest.raises(CheckpointError, match=words) as caught:
        CHECKPOINT(copy)
    assert "\n" not in str(caught.value)


def test_many_missing_weights_are_counted_not_listed(copy: Path) -> None:
    edit_weights(lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("grounder.")])(copy)
    with pytest.raises(CheckpointError, match=r"\d\d+ weights are missing \(grounder\.[^,]+, [^,]+, [^,]+, \.\.\.\)$"):
        CHECKPOINT(copy)


def test_an_output_layer_of_its_own_may_not_be_missing(tmp_path: Path) -> None:
    save("separate", tmp_path)
    edit_weights(lambda weights: weights.pop("lm_head.weight"))(tmp_path)
    with pytest.raises(CheckpointError, match=r"1 weight is missing \(lm_head\.weight\)"):
        CHECKPOINT(tmp_path)
