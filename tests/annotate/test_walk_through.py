"""The walk-through of `docs/annotate.md`: each command of it, in order, in a folder with a user's files and no more."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from miniature import write

from llava_grounding.cli.main import run

PAGE = Path(__file__).parents[2] / "docs/annotate.md"


@pytest.mark.parametrize("packed", ["", "tar", "zip"])
def test_every_command_of_the_walk_through_works_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packed: str
) -> None:
    write(tmp_path, 3, pictures=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in tmp_path.glob("*.jpg"):
        picture.rename(photos / picture.name)
    if packed:
        shutil.make_archive(str(tmp_path / "all"), packed, photos)
        shutil.rmtree(photos)
        photos.mkdir()
        (tmp_path / f"all.{packed}").rename(photos / f"all.{packed}")
    monkeypatch.chdir(tmp_path)
    part = PAGE.read_text(encoding="utf-8").partition("## From an empty folder")[2].partition("\n## ")[0]
    said = {}
    for line in re.findall(r"^    llava-grounding (\S.*)$", part, re.MULTILINE):
        words = shlex.split(line)
        if "--verdicts" in words:  # as the page saves them
            page = json.loads(re.search(r'id="data">(.*?)</script>', Path("review.html").read_text(), re.DOTALL)[1])  # type: ignore[index]
            verdicts = [{"key": one["key"], "id": one["id"], "verdict": "accept"} for one in page["items"]]
            verdicts[0]["verdict"] = "reject"
            Path("verdicts.json").write_text(json.dumps({**page["about"], "verdicts": verdicts}))
        assert run(words) == 0, (line, capsys.readouterr().err)
        said[" ".join(words[:2])] = capsys.readouterr().out
    assert list(said) == ["annotate run", "annotate stats", "annotate show", "annotate review", "data gvc_reviewed"]
    kinds = re.findall(r"`kind: (\w+)`", said["data gvc_reviewed"])
    assert sorted(kinds) == ["coco", "gvc", "gvc", "set_of_mark"]
    assert "not found" not in said["data gvc_reviewed"]
    assert "6 samples, 6 accepted" in said["annotate run"]
    assert re.search(r"precision 0\.\d+ .*: \d+ of \d+ right", said["annotate review"])
    assert Path("1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("gvc.svg").read_text()
    assert len(json.loads(Path("gvc_reviewed/gvc.json").read_text())) > 0
    # Drawn marks say nothing of labels; their numbers must be known as such, since numbers cannot be mirrored.
    assert run(["annotate", "draw-marks", "gvc", "--images", "photos", "--out", "marked"]) == 0
    assert run(["data", "marked"]) == 0
    told = capsys.readouterr().out
    assert "`kind: set_of_mark`" in told
    assert "dialogues: 6" in told
