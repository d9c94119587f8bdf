"""The former place of the drawn world, which is `scenes`; kept for programs that import it from here until 0.2."""

from llava_grounding.scenes.synthetic import COLOURS, KINDS, QUESTION_KINDS, SceneConfig, draw_scene, scene_phrases

__all__ = ["COLOURS", "KINDS", "QUESTION_KINDS", "SceneConfig", "draw_scene", "scene_phrases"]
