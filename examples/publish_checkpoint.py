"""Make a folder to ship of a finished stage: `python examples/publish_checkpoint.py RUN/last OUT [THRESHOLD [OTHER]]`.

Half precision, and one score threshold: the one given, or that of the stage. With OTHER, a stage from the
same start, the mean of both models' weights.
"""

import sys
from pathlib import Path

from llava_grounding.train.publish import publish


def main() -> None:
    threshold = float(sys.argv[3]) if len(sys.argv) > 3 else None
    other = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    size = publish(Path(sys.argv[1]), Path(sys.argv[2]), threshold, other)
    print(f"{sys.argv[2]}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
