"""How long the grounder takes on this machine's CPU, at the original's size and with random weights.

    python examples/time_grounder.py --image-size 1024 1024 --phrases 5

Every part is timed on its own, then the whole.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from llava_grounding.model.builders import build_grounder
from llava_grounding.model.presets import preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="official_7b", help="whose grounder to time")
    parser.add_argument("--image-size", type=int, nargs=2, default=(1024, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--phrases", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="the fastest counts; one more run warms up")
    parser.add_argument("--bf16", action="store_true", help="weights and pixels in bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = preset(arguments.preset).grounder_config
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    grounder = build_grounder(config).eval().to(dtype)
    pixel_values = torch.randn(1, 3, *arguments.image_size, dtype=dtype)
    phrase_embeds = torch.randn(1, arguments.phrases, config.phrase_size, dtype=dtype)
    phrase_mask = torch.ones(1, arguments.phrases, dtype=torch.bool)

    with torch.inference_mode():
        maps = grounder.backbone(pixel_values)
        memory = grounder.pixel_decoder(maps)
        parts: dict[str, Callable[[], object]] = {
            "backbone": lambda: grounder.backbone(pixel_values),
            "pixel decoder": lambda: grounder.pixel_decoder(maps),
            "query decoder and heads": lambda: grounder.ground(memory, phrase_embeds, phrase_mask).mask_logits,
            "all": lambda: grounder(pixel_values, phrase_embeds, phrase_mask).mask_logits,
        }
        for name, part in parts.items():
            seconds = [time_once(part) for _ in range(arguments.runs + 1)][1:]
            print(f"{name:24} {min(seconds):6.2f} s   (median {statistics.median(seconds):.2f} s)")


def time_once(part: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
