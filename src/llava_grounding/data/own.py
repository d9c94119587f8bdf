"""The former place and name of `CustomData`; kept for programs that import it from here until 0.2."""

from llava_grounding.data.readers.custom import CustomData as OwnData

__all__ = ["OwnData"]
