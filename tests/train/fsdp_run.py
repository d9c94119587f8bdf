"""A run with `sharding: fsdp`, for torchrun on CUDA devices: `fsdp_run.py FOLDER STEPS`; see test_distributed.py."""

from __future__ import annotations

import sys
from pathlib import Path

from running import UNEQUAL, Listed
from small_training import training_setup

from llava_grounding.train.run import run_stage

if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    values = {"stage": "chat", "flavour": "official", "batch_size": 4, "bf16": True, "sharding": "fsdp"}
    run_stage(training_setup(folder, source=Listed(UNEQUAL), steps=steps, eval_steps=2, **values), "cuda")
