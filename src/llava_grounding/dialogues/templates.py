"""How things are asked for in training: sentences of our own, in families, one drawn for each question.

`{}` stands for a phrase, `<region>` for a visual prompt. Knows no records, no answers, and not how a dialogue is laid
out: that a grounded answer is wanted is also written by the processor, behind every question of a grounded turn.
"""

from __future__ import annotations

REFERRING_REQUESTS = (
    "Find {}.",
    "Point to {}.",
    "Show me {}.",
    "Where is {}?",
    "Locate {} in the image.",
    "Mark {} for me.",
    "Outline {}.",
    "Please segment {}.",
    "I am looking for {}. Where in the picture is that?",
    "Can you pick out {}?",
    "Draw a mask around {}.",
    "Highlight {} in this photo.",
    "Which part of the image shows {}?",
    "Give me the region of {}.",
    "Could you show where {} can be seen?",
)
"""A phrase is given and its region wanted (table 16 of the paper). The first is how the engine asks."""

BRIEF_DESCRIPTIONS = (
    "Describe the image.",
    "What is in the image?",
    "What does this photo show?",
    "Sum up the picture in a sentence.",
    "Write a short caption for this image.",
    "Tell me briefly what you see.",
    "Put briefly, what is going on here?",
    "What would you say this is a picture of?",
    "Give a quick description of the scene.",
    "Put what the photo shows into one line.",
    "How would you caption this?",
    "What is the main content of the image?",
    "State in short what can be seen.",
    "Briefly, what is happening in this scene?",
)
"""One sentence about the whole image is wanted (table 17)."""

GROUNDING_SUFFIXES = (
    "Show me where each thing is.",
    "Mark everything you mention.",
    "Please point out what you name.",
    "Tie your answer to the image.",
    "Segment the things in your answer.",
    "I would like to see the regions you speak of.",
    "Highlight whatever you refer to.",
    "Add the place of every object.",
    "Let me see which parts of the picture you mean.",
    "Ground your answer in the image.",
    "Outline each object as you go.",
    "For each thing, say where it is found.",
    "Give boxes for what you mention.",
    "Connect each phrase with its region.",
)
"""Put behind any question: what the answer names shall be located (table 18)."""

REGION_CAPTIONS = (
    "Describe <region>.",
    "What can you say about <region>?",
    "Give a short description of <region>.",
    "How would you describe what is at <region>?",
    "Caption <region>.",
    "Tell me about <region>.",
    "In short, what does <region> show?",
    "Describe the part of the image at <region>.",
    "If you had to refer to <region>, what would you call it?",
    "What do you see at <region>?",
    "Which phrase singles out <region>?",
    "Write a phrase that fits <region>.",
    "Look at <region>. What is there?",
    "Explain what <region> contains.",
    "Sum up <region> in a phrase.",
)
"""A prompt is given and words for it wanted (table 19)."""

REGION_NAMES = (
    "What is <region>?",
    "Name <region>.",
    "What kind of thing is <region>?",
    "What object is at <region>?",
    "What do you call <region>?",
    "Identify <region>.",
    "Which category does <region> belong to?",
)
"""A prompt is given and the name of its category wanted."""

LISTING_REQUESTS = (
    "List everything you see.",
    "Which things are in the image?",
    "List the objects in the picture.",
    "What kinds of things can be found here?",
    "Name all objects in this photo.",
    "Which categories do you recognise?",
)
"""The names of all categories in the image are wanted."""

FAMILIES = {
    "referring requests": REFERRING_REQUESTS,
    "brief descriptions": BRIEF_DESCRIPTIONS,
    "grounding suffixes": GROUNDING_SUFFIXES,
    "region captions": REGION_CAPTIONS,
    "region names": REGION_NAMES,
    "listing requests": LISTING_REQUESTS,
}
