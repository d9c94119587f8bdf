"""One question about many pictures, one line of JSON each: `python examples/ask_many.py QUESTION IMAGE...`."""

import json
import sys

from llava_grounding import GroundedChat, Question


def main() -> None:
    question, *images = sys.argv[1:]
    answers = GroundedChat.from_pretrained().ask_batch([Question(image, question) for image in images])
    for image, answer in zip(images, answers, strict=True):
        print(json.dumps({"image": image, **answer.to_dict()}))


if __name__ == "__main__":
    main()
