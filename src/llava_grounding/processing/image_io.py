"""Where `load_image` and `load_mask` were at first; they are in `image_files`, which data sets use as well."""

from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image, load_mask

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "ImageSource", "load_image", "load_mask"]
