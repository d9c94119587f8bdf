"""Ask about a picture, one question after the other: `python examples/talk_about_photo.py IMAGE QUESTION...`.

Text comes as it is written, and what was found for a phrase as soon as the phrase is complete.
"""

import sys

from llava_grounding import AnswerDone, GroundedChat, RegionsFound, TextDelta


def main() -> None:
    image, *questions = sys.argv[1:]
    talk = GroundedChat.from_pretrained().conversation(image)
    for question in questions:
        print(f"> {question}")
        for event in talk.stream(question):
            match event:
                case TextDelta(text):
                    print(text, end="", flush=True)
                case RegionsFound(phrase):
                    print(f" [{len(phrase.regions)} found] ", end="", flush=True)
                case AnswerDone(answer):
                    print(f"\n  {answer.completion_tokens} tokens")
    talk.answers[-1].draw().save("answer.png")


if __name__ == "__main__":
    main()
