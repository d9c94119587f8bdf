"""The chat route, asked with the stock client: it answers as `ask` and `Conversation` do, at once and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from live_server import Live, asking, data_url, image_part

from answer_checks import RAW, TEXT, assert_same_answers, assert_same_phrases, mask_prompt
from llava_grounding.masks import encode_rle
from llava_grounding.polygons import polygons_to_mask
from llava_grounding.structures import GroundedAnswer, VisualPrompt
from tiny_model import picture, saying

QUESTION = "Describe the image."


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with httpx2.Client(trust_env=False) as http:
        yield openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http)


def answer_of(message: Any) -> GroundedAnswer:
    """The answer that rides beside a message."""
    return GroundedAnswer.from_dict(message.grounding)


def test_an_answer_equals_that_of_ask(client: openai.OpenAI, live: Live) -> None:
    with saying(live.chat, RAW, RAW):
        expected = live.chat.ask(picture(), QUESTION)
        given = client.chat.completions.create(model=live.chat.name, messages=asking(QUESTION))
    (choice,) = given.choices
    assert choice.message.content == expected.text == TEXT
    assert_same_answers(answer_of(choice.message), expected)
    assert choice.finish_reason == "stop"
    assert given.usage is not None
    assert (given.usage.prompt_tokens, given.usage.completion_tokens) == (
        expected.prompt_tokens,
        expected.completion_tokens,
    )
    assert given.usage.total_tokens == expected.prompt_tokens + expected.completion_tokens


def test_a_stream_ends_with_the_unstreamed_answer_and_has_regions_before(client: openai.OpenAI, live: Live) -> None:
    with saying(live.chat, RAW, RAW):
        whole = client.chat.completions.create(model=live.chat.name, messages=asking(QUESTION))
        chunks = list(
            client.chat.completions.create(
                model=live.chat.name,
                messages=asking(QUESTION),
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    *pieces, last, usage = chunks
    said, phrases = "", []
    for piece in pieces:
        delta = piece.choices[0].delta
        said += delta.content or ""
        if (found := getattr(delta, "grounding", None)) is not None:
            phrases.append(found["phrase"])
            assert said == TEXT[: found["phrase"]["span"][1]]  # as soon as its words are there
    assert said == whole.choices[0].message.content
    grounding = last.choices[0].delta.grounding["answer"]
    assert_same_answers(GroundedAnswer.from_dict(grounding), answer_of(whole.choices[0].message))
    assert_same_phrases(
        GroundedAnswer.from_dict({**grounding, "phrases": phrases}).phrases, answer_of(whole.choices[0].message).phrases
    )
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("kind", ["click", "box", "scribble", "mask", "drawn mask"])
def test_every_kind_of_region_points_as_it_does_in_python(kind: str, live: Live) -> None:
    mask = mask_prompt().mask
    assert mask is not None
    part, prompt = {
        "click": ({"click": [20, 30]}, VisualPrompt.click(20, 30)),
        "box": ({"box": [10, 10, 60.5, 50]}, VisualPrompt.box(10, 10, 60.5, 50)),
        "scribble": ({"scribble": [[5, 5], [40, 30], [80, 20]]}, VisualPrompt.scribble([(5, 5), (40, 30), (80, 20)])),
        "mask": ({"mask": encode_rle(mask)}, VisualPrompt.mask_of(mask)),
        "drawn mask": ({"mask": data_url(_drawn(mask))}, VisualPrompt.mask_of(mask)),
    }[kind]
    expected = live.chat.ask(picture(), "What is <region>?", [prompt], max_new_tokens=6)
    region = {"type": "region", **part}
    named = live.complete(asking(region, "What is <region>?"), max_tokens=6).json()
    in_place = live.complete(asking("What is", region), max_tokens=6).json()
    assert named["choices"][0]["message"]["grounding"]["raw"] == expected.raw
    other = live.chat.ask(picture(), "What is <region>", [prompt], max_new_tokens=6)
    assert in_place["choices"][0]["message"]["grounding"]["raw"] == other.raw


def _drawn(mask: Any) -> Any:
    from PIL import Image

    return Image.fromarray(mask.astype("uint8") * 255)


@pytest.mark.parametrize("sent", ["the message itself", "its text", "none of it known"])
def test_a_dialogue_goes_on_as_in_python_and_is_not_read_again(sent: str, client: openai.OpenAI, live: Live) -> None:
    image = picture(seed=len(sent))
    second = "Yes, <g_s> it <g_e> <seg> is red."
    with saying(live.chat, RAW, second):
        talk = live.chat.conversation(image)
        first_expected, expected = talk.ask(QUESTION), talk.ask("Is it red?")
    messages: list[Any] = asking(QUESTION, image=image)
    with saying(live.chat, *([] if sent.startswith("none") else [RAW]), second):
        if sent.startswith("none"):
            messages.append({"role": "assistant", "content": TEXT, "grounding": first_expected.to_dict()})
        else:
            first = client.chat.completions.create(model=live.chat.name, messages=messages).choices[0].message
            messages.append(first if sent == "the message itself" else {"role": "assistant", "content": first.content})
        messages.append({"role": "user", "content": "Is it red?"})
        given = client.chat.completions.create(model=live.chat.name, messages=messages)
    assert_same_answers(answer_of(given.choices[0].message), expected)
    assert given.usage is not None
    assert given.usage.prompt_tokens_details is not None
    cached = given.usage.prompt_tokens_details.cached_tokens
    share = cached / given.usage.prompt_tokens
    assert share > 0.7 if not sent.startswith("none") else share == 0


def test_an_answer_that_nobody_gave_is_plain_text(live: Live) -> None:
    said = "A dog <g_s> here <g_e> <seg> <region>."
    turns = [{"role": "assistant", "content": said}, {"role": "user", "content": "Where?"}]
    plain = [{"role": "assistant", "content": "A dog here ."}, {"role": "user", "content": "Where?"}]
    answers = [live.complete([*asking(QUESTION), *rest], max_tokens=4).json() for rest in (turns, plain)]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"] + _difference(live, said)


def _difference(live: Live, said: str) -> int:
    """How much longer the stripped text is than the plain one that stands for it."""
    from llava_grounding.markup import strip_markup

    tokens = live.chat.processor.tokens
    return len(tokens.encode_answer(" " + strip_markup(said))) - len(tokens.encode_answer(" A dog here ."))


def test_sampling_is_that_of_ask(client: openai.OpenAI, live: Live) -> None:
    expected = live.chat.ask(picture(), QUESTION, temperature=1.5, seed=7, max_new_tokens=12)
    for _ in range(2):
        given = client.chat.completions.create(
            model=live.chat.name, messages=asking(QUESTION), temperature=1.5, seed=7, max_tokens=12
        )
        assert_same_answers(answer_of(given.choices[0].message), expected)
    assert given.choices[0].finish_reason == "length"


def test_a_system_message_stands_before_the_first_question(live: Live) -> None:
    expected = live.chat.ask(picture(), f"Be short.\n{QUESTION}", max_new_tokens=5)
    messages = [{"role": "system", "content": "Be short."}, *asking(QUESTION)]
    given = live.complete(messages, max_completion_tokens=5).json()
    assert given["choices"][0]["message"]["grounding"]["raw"] == expected.raw
    assert given["usage"]["prompt_tokens"] == expected.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop_text_with_the_phrases_that_are_whole(stream: bool, live: Live) -> None:
    with saying(live.chat, RAW):
        response = live.complete(asking(QUESTION), stop=["nowhere", "cats, not"], stream=stream)
    if stream:
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        grounding = [event["choices"][0]["delta"].get("grounding", {}) for event in events]
        found = [one["phrase"]["text"] for one in grounding if "phrase" in one]
        answer = events[-1]["choices"][0]["delta"]["grounding"]["answer"]
    else:
        choice = response.json()["choices"][0]
        text, answer = choice["message"]["content"], choice["message"]["grounding"]
        assert choice["finish_reason"] == "stop"
        found = ["a red dog"]
    assert text == answer["text"] == "There is a red dog to the left of two white "
    assert found == [phrase["text"] for phrase in answer["phrases"]] == ["a red dog"]
    GroundedAnswer.from_dict(answer)


def test_grounding_is_as_it_is_wanted(live: Live) -> None:
    with saying(live.chat, *[RAW] * 6):
        asked = asking(QUESTION)
        off = live.complete(asked, grounding="off").json()["choices"][0]["message"]
        rle = live.complete(asked, grounding={"threshold": 0.0}).json()["choices"][0]["message"]["grounding"]
        high = live.complete(asked, grounding={"threshold": 1.0}).json()["choices"][0]["message"]["grounding"]
        boxes = live.complete(asked, grounding={"masks": "none"}).json()["choices"][0]["message"]["grounding"]
        outlines = live.complete(asked, grounding={"masks": "polygons", "threshold": 0}).json()
        refused = live.complete(asked, grounding={"mode": "required", "threshold": 1.0})
    assert off == {"role": "assistant", "content": TEXT, "refusal": None}
    kept = [len(phrase["regions"]) for phrase in rle["phrases"]]
    assert sum(kept) > sum(len(phrase["regions"]) for phrase in boxes["phrases"]) > 0
    assert [len(phrase["regions"]) for phrase in high["phrases"]] == [0, 0, 0]
    assert all(region.keys() == {"box", "score", "area"} for phrase in boxes["phrases"] for region in phrase["regions"])
    phrases = outlines["choices"][0]["message"]["grounding"]["phrases"]
    assert [len(phrase["regions"]) for phrase in phrases] == kept
    by_rle = GroundedAnswer.from_dict(rle).phrases[0].regions[0].mask
    assert by_rle is not None
    filled = polygons_to_mask(phrases[0]["regions"][0]["polygons"], (90, 60))
    assert (filled == by_rle).all()
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "nothing_grounded")


def test_phrases_are_found_as_by_ground(live: Live) -> None:
    expected = live.chat.ground(picture(), ["red dog", " two cats "])
    given = live.post("/v1/ground", {"image": {"url": data_url()}, "phrases": ["red dog", " two cats "]}).json()
    assert given["image_size"] == [90, 60]
    assert [phrase["text"] for phrase in given["phrases"]] == ["red dog", "two cats"]
    for one, phrase in zip(given["phrases"], expected, strict=True):
        assert one["score"] == pytest.approx(phrase.score, abs=1e-5)
        assert [region["mask"] for region in one["regions"]] == [region.mask_rle for region in phrase.regions]


def test_an_answer_is_drawn_written_as_a_page_and_as_coco(live: Live) -> None:
    with saying(live.chat, RAW):
        answer = live.chat.ask(picture(), QUESTION)
    body = {"image": {"url": data_url()}, "answer": answer.to_dict(), "file_name": "street.png"}
    png, html, coco = (live.post("/v1/render", {**body, "format": kind}) for kind in ("png", "html", "coco"))
    assert png.content.startswith(b"\x89PNG")
    assert png.headers["content-type"] == "image/png"
    assert html.text == answer.to_html()
    assert coco.json() == answer.to_coco("street.png")


def test_the_model_says_what_it_is(client: openai.OpenAI, live: Live) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(live.chat.name) == model
    assert (model.id, model.score_threshold) == (live.chat.name, 0.5)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "gpt"}, 404, "there is no model `gpt`; this server has `tiny-shared`"),
        ({"messages": []}, 400, "`messages` must have at least 1 items"),
        ({"messages": [{"role": "user", "content": "What?"}]}, 400, "a dialogue needs an image"),
        ({"messages": [*asking("Hi"), {"role": "assistant"}]}, 400, "the last message must be from the user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "`messages.0.role` must be 'system', 'developer'"),
        ({"messages": asking("What is <region>?")}, 400, "the question must have one <region> per region prompt"),
        ({"messages": asking({"type": "region", "box": [0, 0, 500, 0]})}, 400, "region 1: a box must have x0 < x1"),
        (
            {"messages": asking({"type": "region", "box": [1]})},
            400,
            "`messages.0.content.0.box` must have at least 4 items",
        ),
        ({"messages": asking({"type": "region"})}, 400, "a region must have one of click, box, scribble and mask"),
        ({"messages": asking(" ")}, 400, "the question must not be empty"),
        ({"messages": asking("a", image_part(picture(5)))}, 400, "a dialogue is about one image, got several"),
        ({"max_tokens": 10**9}, 400, "max_tokens must be at most 2000, got 1e+09"),
        ({"max_tokens": "5"}, 400, "`max_tokens` must be a whole number"),
        ({"n": 2}, 400, "`n` must be 1"),
        ({"temprature": 1}, 400, "`temprature` is not known"),
        ({"grounding": "yes"}, 400, "`grounding` must be 'off', 'auto' or 'required'"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_sentence(
    change: dict[str, Any], status: int, message: str, live: Live
) -> None:
    response = live.post(
        "/v1/chat/completions", {"model": live.chat.name, "messages": asking(QUESTION), "stream": True, **change}
    )
    error = response.json()["error"]
    assert response.status_code == status
    assert message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
