"""Make a folder to ship of a finished stage: `python examples/publish_checkpoint.py RUN/last OUT [THRESHOLD]`.

Half precision, and one score threshold: the one given, or that of the stage.
"""

import sys
from pathlib import Path

from llava_grounding.train.publish import publish


def main() -> None:
    threshold = float(sys.argv[3]) if len(sys.argv) > 3 else None
    size = publish(Path(sys.argv[1]), Path(sys.argv[2]), threshold)
    print(f"{sys.argv[2]}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
