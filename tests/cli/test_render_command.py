"""`render` draws an answer from its JSON, or says in one sentence why it cannot."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import SIZE, FakeEngine, Result
from PIL import Image

Call = Callable[..., Result]


@pytest.fixture
def answer(engine: FakeEngine, tmp_path: Path) -> Path:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(engine.ask(Image.new("RGB", SIZE), "What?").to_dict()))
    return path


def test_an_answer_becomes_a_drawing_or_a_page(call: Call, answer: Path, photo: Path, tmp_path: Path) -> None:
    assert call("render", answer, photo, tmp_path / "out.PNG") == Result(0, "", "")
    with Image.open(tmp_path / "out.PNG") as drawing:
        assert (drawing.format, drawing.width) == ("PNG", 640)
    assert call("render", answer, photo, tmp_path / "out.html") == Result(0, "", "")
    assert "A disc" in (tmp_path / "out.html").read_text()


def test_chat_and_render_make_the_same_files(call: Call, engine: FakeEngine, photo: Path, tmp_path: Path) -> None:
    call("chat", photo, "What?", "--out", tmp_path)
    for name in ("answer.png", "answer.html"):
        out = tmp_path / f"again{Path(name).suffix}"
        assert call("render", tmp_path / "answer.json", photo, out).code == 0
        assert out.read_bytes() == (tmp_path / name).read_bytes()


def test_an_answer_can_come_from_stdin(
    call: Call, answer: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(answer.read_bytes())))
    assert call("render", "-", photo, tmp_path / "out.html").code == 0


def changed(answer: Path, **values: Any) -> bytes:
    data = json.loads(answer.read_text()) | values
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": 2}, "an answer must have version 1, got 2"),
        ({"image_size": [1, 1]}, "masks must have the size of the image"),
        ({"image_size": "big"}, "a value that does not fit"),
        ({"phrases": [{"id": 0}]}, "an answer must have `span`"),
        ({"text": "shorter"}, "span of phrase 0 must cover 'A disc'"),
        ({"usage": None}, "a value that does not fit"),
    ],
)
def test_a_wrong_answer_is_refused(
    call: Call, answer: Path, photo: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    answer.write_bytes(changed(answer, **values))
    result = call("render", answer, photo, tmp_path / "out.png")
    assert (result.code, result.out) == (1, "")
    assert "answer.json` does not hold an answer: " in result.err
    assert words in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"not json"])
def test_what_is_no_json_is_refused(call: Call, photo: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(content)
    result = call("render", path, photo, tmp_path / "out.png")
    assert (result.code, result.out) == (1, "")
    assert "does not hold JSON" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"text"', b"{}"])
def test_json_that_is_no_answer_is_refused(call: Call, photo: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(content)
    result = call("render", path, photo, tmp_path / "out.png")
    assert result.code == 1
    assert "must have version 1, got None" in result.err


def test_wrong_places_are_refused(call: Call, answer: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for out, words in [
        (tmp_path / "out.jpg", "must end in .png or .html, got `out.jpg`"),
        (tmp_path / "no" / "out.png", "does not exist; make it first"),
        (tmp_path / "folder.png", "is a folder; expected a file"),
    ]:
        result = call("render", answer, photo, out)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    result = call("render", tmp_path / "nothing.json", photo, tmp_path / "out.png")
    assert (result.code, "nothing.json` cannot be read: No such file or directory" in result.err) == (2, True)
    result = call("render", answer, tmp_path / "nothing.png", tmp_path / "out.png")
    assert (result.code, "does not exist; check the path" in result.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.json", "folder.png", "photo.png"]


def test_a_picture_of_another_size_is_refused(call: Call, answer: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    result = call("render", answer, tmp_path / "other.png", tmp_path / "out.html")
    assert result.code == 1
    assert "this answer is about an image of 64 x 48 pixels, got one of 5 x 5; give it its own image" in result.err
    assert not (tmp_path / "out.html").exists()


def test_how_large_an_image_may_be_can_be_said(call: Call, answer: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = call("render", answer, photo, out, "--max-megapixels", "0.001")
    assert (result.code, out.exists()) == (1, False)
    assert "must be about an image of at most 0.001 megapixels, got one of 64 x 48 pixels" in result.err
    assert call("render", answer, photo, out, "--max-megapixels", "200").code == 0
    answer.write_bytes(changed(answer, image_size=[16_320, 12_240], phrases=[]))
    assert "at most 65 megapixels" in call("render", answer, photo, out).err
    assert "about an image of 16320 x 12240" in call("render", answer, photo, out, "--max-megapixels", "200").err


def test_an_answer_without_end_is_not_read_whole(call: Call, photo: Path, tmp_path: Path) -> None:
    with (tmp_path / "answer.json").open("wb") as file:
        file.truncate(30_000_000_000)
    result = call("render", tmp_path / "answer.json", photo, tmp_path / "out.png")
    assert result.code == 1
    assert "answer.json` must have at most 100 MB to be an answer" in result.err
