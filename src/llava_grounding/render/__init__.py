"""An answer as a drawing or as a page: what is on the picture, and which words say so.

`drawing` makes the picture and `page` the HTML; `canvas` scales and strokes, `typeset` sets the lines of text,
`palette` gives each phrase its colour. Knows no model and no files.
"""

from llava_grounding.render.drawing import draw_answer, draw_prompts
from llava_grounding.render.page import answer_to_html

__all__ = ["answer_to_html", "draw_answer", "draw_prompts"]
