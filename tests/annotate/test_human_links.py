"""What `builtin` ties in a miniature of Flickr30K Entities, held against its links; the figures are counted by hand."""

from __future__ import annotations

from pathlib import Path

from human_links import measure

from llava_grounding.data.readers.flickr30k import Flickr30kEntities

WALK = """\
[/EN#1/people Two women] walk [/EN#2/animals a dog] .
[/EN#1/people Two ladies] with [/EN#2/animals a small dog] on [/EN#3/scene a path] .
[/EN#2/animals A dog] carries [/EN#4/other a stick] .
[/EN#5/people A man] watches [/EN#2/animals the dog] .
"""
CATS = """\
[/EN#7/animals A cat] sleeps .
[/EN#8/animals A cat] watches .
"""


def write(folder: Path, number: int, sentences: str, entities: list[int]) -> None:
    """One picture, its boxes side by side, each of one entity."""
    things = "".join(
        f"<object><name>{entity}</name><bndbox><xmin>{20 * place + 1}</xmin><ymin>1</ymin>"
        f"<xmax>{20 * place + 19}</xmax><ymax>40</ymax></bndbox></object>"
        for place, entity in enumerate(entities)
    )
    size = "<size><width>200</width><height>50</height><depth>3</depth></size>"
    for name, text in (
        (f"Annotations/{number}.xml", f"<annotation>{size}{things}</annotation>"),
        (f"Sentences/{number}.txt", sentences),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_links_of_builtin_are_held_against_those_of_people(tmp_path: Path) -> None:
    write(tmp_path, 21, WALK, [1, 1, 2, 4, 5])
    write(tmp_path, 22, CATS, [7, 8])
    data = Flickr30kEntities.from_files(tmp_path, images=tmp_path, split=None)
    # Right is the dog, in each caption. No other caption names the stick or the man. With him there are three people,
    # and "two women" are left open. The cat that a caption is about has no name there: the other is taken for it.
    assert measure(data[place] for place in range(len(data))) == {
        "images": 2,
        "captions": 6,
        "links": 10,
        "links_named": 6,
        "found": 6,
        "right": 4,
        "other_boxes": 2,
        "precision": 0.667,
        "recall_of_named": 0.667,
        "recall_of_all": 0.4,
    }
