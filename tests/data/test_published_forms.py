"""Forms that published files have and no description of their format tells of, each with the right value."""

from __future__ import annotations

from pathlib import Path

from label_files import picture, write_files, write_json
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.messages import ChatMessages
from tool_files import H, W

PICTURE = picture(size_wh=(W, H))
HALF = "0 0.5 0.5 0.5 0.5\n"


def test_a_labelme_file_that_names_itself_means_the_picture_beside_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    shape = {"label": "dog", "points": [[4, 8], [20, 8], [4, 24]], "shape_type": "polygon"}
    write_json(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.json", "imageWidth": W, "imageHeight": H})
    (record,) = Labelme.from_files(tmp_path)
    assert record.id == "a.png"
    assert record.load_image().shape == (H, W, 3)


def test_a_chat_that_shows_one_picture_again_is_about_one_picture(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    said = ["<image>Who are they?", "Two players.", "What are they doing?<image>", "They are celebrating."]
    rows = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    write_json(tmp_path / "chat.json", [{"messages": rows, "images": ["a.png", "a.png"]}])
    data = ChatMessages.from_files(tmp_path / "chat.json")
    assert data.dropped == {}
    ((first, second),) = data[0].dialogues
    assert (first.question, second.question) == ("Who are they?", "What are they doing?")


def test_a_picture_that_is_first_shown_later_leaves_its_chat_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PICTURE})
    said = ["Hello.", "Show me a picture.", "<image>What is it?", "A dog."]
    rows = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    write_json(tmp_path / "chat.json", [{"messages": rows, "images": ["a.png"]}])
    data = ChatMessages.from_files(tmp_path / "chat.json")
    assert (len(data), list(data.dropped)) == (0, ["special token in the text"])
