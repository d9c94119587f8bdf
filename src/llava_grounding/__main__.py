"""`python -m llava_grounding`: the command, for launchers such as torchrun."""

from llava_grounding.cli.main import main

main()
