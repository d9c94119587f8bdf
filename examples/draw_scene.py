"""Draw one scene of the little world the embedded model knows: `python examples/draw_scene.py OUT.png [SEED]`."""

import sys
from pathlib import Path

from PIL import Image

from llava_grounding.scenes.synthetic import draw_scene

DEMO_SEED = 10**9 + 252  # held out (training draws seeds below 10**9), and one that nano describes rightly


def main() -> None:
    out = Path(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else DEMO_SEED
    sample = draw_scene(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(out)


if __name__ == "__main__":
    main()
