"""The page that goes with a saved or uploaded model. Nothing here reaches a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers.utils.hub
from huggingface_hub import ModelCard, ModelCardData

from llava_grounding.model.model_card import model_card
from llava_grounding.model.presets import preset
from tiny_model import tiny_parts


class FakeHub:
    """Takes what would be uploaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, card: str | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.repo_id = ""

        def load_card(repo_id: str, tags: Any = None, token: Any = None) -> ModelCard:
            return ModelCard.from_template(ModelCardData()) if card is None else ModelCard(card)

        def upload(_: Any, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> str:
            self.repo_id = repo_id
            self.files = {path.name: path.read_bytes() for path in Path(working_dir).iterdir()}
            return "done"

        class Api:
            def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
                return type("Repo", (), {"repo_id": f"me/{repo_id}"})

        monkeypatch.setattr(transformers.utils.hub, "create_and_tag_model_card", load_card)
        monkeypatch.setattr(transformers.utils.hub.PushToHubMixin, "_upload_modified_files", upload)
        monkeypatch.setattr(transformers.utils.hub, "hf_api", Api)


def test_a_pushed_model_has_a_card_that_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch)
    model, processor = tiny_parts("separate")
    assert model.push_to_hub("grounded") == "done"
    assert hub.repo_id == "me/grounded"
    assert {"config.json", "model.safetensors", "README.md", "generation_config.json"} <= set(hub.files)
    card = hub.files["README.md"].decode()
    assert card == model_card(model.config, model.num_parameters(), "me/grounded")
    assert 'GroundedChat.from_pretrained("me/grounded")' in card
    assert "[More Information Needed]" not in card
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    processor.push_to_hub("grounded")
    assert {"processor_config.json", "chat_template.jinja", "tokenizer.json"} <= set(hub.files)


def test_a_card_that_somebody_wrote_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = "---\nlicense: mit\n---\n\n# Mine\n"
    hub = FakeHub(monkeypatch, card=written)
    model, _ = tiny_parts("shared")
    model.push_to_hub("grounded")
    assert hub.files["README.md"].decode() == written
    (tmp_path / "README.md").write_text(written, encoding="utf-8")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == written


def test_a_saved_folder_has_a_card(tmp_path: Path) -> None:
    model, _ = tiny_parts("shared")
    model.save_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "# mine\n" in card
    assert "| vision tower | reads the grounder's features |" in card
    assert f"{model.num_parameters():,} parameters" in card


def test_the_card_of_the_7b_model_names_its_parts() -> None:
    card = model_card(preset("official_7b"), 7_156_000_000, "somebody/llava")
    for line in ("# llava\n", "| language model | llama, width 4096 |", "| grounder | swin, 300 queries |"):
        assert line in card
    assert "| vision tower | clip_vision_model |" in card
