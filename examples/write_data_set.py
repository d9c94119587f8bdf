"""Write drawn scenes as if they were somebody's own data: `python examples/write_data_set.py FOLDER [COUNT]`.

Pictures, a COCO file with masks, captions and dialogues for training; and `validation.json` with scenes of their own.
"""

import sys
from pathlib import Path

from llava_grounding.scenes.records import write_scenes


def main() -> None:
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    write_scenes(folder, count)
    held_out = write_scenes(folder / "validation", max(2, count // 10), seed=10**9)
    print(f"{count} scenes to train on in {folder}, others to validate with in {held_out['images'].parent}")


if __name__ == "__main__":
    main()
