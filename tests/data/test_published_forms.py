"""Forms that published files have and no description of their format tells of, each with the right value."""

from __future__ import annotations

from pathlib import Path

from label_files import picture, write_files, write_json
from llava_grounding.data.readers.labelme import Labelme
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
