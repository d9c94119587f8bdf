"""How things are asked for: sentences of our own, one drawn for each question.

The families for records come first, then what is asked of photos (`PHOTO_`) and of drawn scenes (`SCENE_`). Their
order is part of a benchmark: another draws other questions. `{}` stands for words, `<region>` for a visual prompt.
Knows no records, no answers, and not how a dialogue is laid out: that a grounded answer is wanted is also written by
the processor, behind every question of a grounded turn.
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

PHOTO_DESCRIBE = (
    "Describe the image.",
    "What is in the image?",
    "What do you see?",
    "Describe the picture.",
    "What does the image show?",
)
PHOTO_LIST = ("List everything you see.", "List the things in the image.", "Which things are in the image?")
PHOTO_COUNT = ("How many {} are there?", "How many {} are in the picture?", "Count the {}.")
PHOTO_WHERE = ("Where {} {}?", "Where in the picture {} {}?")
"""The verb, and the phrase."""
PHOTO_FIND = ("Find {}.", "Show me {}.", "Point to {}.", "Segment {}.", "Locate {}.", "Select {}.", "Mark {}.")
PHOTO_REGION = (
    "What is <region>?",
    "What is this <region>?",
    "What is at <region>?",
    "Name <region>.",
    "What do you see at <region>?",
)
PHOTO_IS_THERE = ("{} there {} in the image?", "{} there {} in the image?", "{} there {} in the picture?")
"""The verb, and what may be there; worded as object-hallucination tests word it, the first way twice as often."""
PHOTO_RELATION = ("Is it true that {}?", "Is this true: {}?")

SCENE_DESCRIBE = (
    "Describe the image.",
    "Describe this picture.",
    "What is in the image?",
    "What do you see?",
    "What can you see in this picture?",
    "What is shown here?",
    "Tell me what is in the picture.",
    "Give a description of the scene.",
    "List everything you see.",
)
DESCRIBE_WORDINGS = (
    "Describe the image.",
    "Describe the picture.",
    "Describe this photo.",
    "Describe what you see.",
    "Describe the image in detail.",
    "Describe the picture in detail.",
    "What is in the image?",
    "What is in the picture?",
    "What is in this image?",
    "What is in this photo?",
    "What's in this picture?",
    "What do you see?",
    "What do you see in the image?",
    "What can you see?",
    "What can you see here?",
    "What is shown in the picture?",
    "What does the picture show?",
    "What is this a picture of?",
    "What is happening here?",
    "What is going on in this image?",
    "Can you describe the image?",
    "Please describe this image.",
    "Tell me about this picture.",
)
"""Ways to ask for a description: training asks in these as well, the sets of benchmarks in those above alone."""
SCENE_COUNT = (
    "How many {} are there?",
    "How many {} can you see?",
    "Count the {}.",
    "How many {} are in the picture?",
    "What is the number of {}?",
)
SCENE_HOW_MANY = ("How many are there?", "How many of them are there?", "How many do you see?")
"""Asks for the number of what has just been found."""
SCENE_COLOUR_ONE = (
    "What colour is {}?",
    "What color is {}?",
    "Which colour does {} have?",
    "Tell me the colour of {}.",
)
SCENE_COLOUR_MANY = (
    "What colour are {}?",
    "What color are {}?",
    "Which colour do {} have?",
    "Tell me the colour of {}.",
)
SCENE_WEARING = ("What colour is {} wearing?", "What color is {} wearing?", "Which colour does {} wear?")
SCENE_WHERE = ("Where is {}?", "Where can I find {}?", "Where in the picture is {}?", "Tell me where {} is.")
SCENE_FIND = (
    "Find {}.",
    "Show me {}.",
    "Point to {}.",
    "Segment {}.",
    "Locate {}.",
    "Select {}.",
    "Can you find {}?",
    "Mark {}.",
    "Please highlight {}.",
)
SCENE_REGION = (
    "What is <region>?",
    "What is at <region>?",
    "What do you see at <region>?",
    "What is in <region>?",
    "Name <region>.",
    "Which thing is <region>?",
    "What is this <region>?",
    "Describe <region>.",
)
SCENE_REGION_COLOUR = ("What colour is <region>?", "What color is <region>?", "Which colour does <region> have?")
SCENE_REGION_WHERE = ("Where is <region>?", "In which part of the picture is <region>?")
SCENE_BIGGER = ("Is <region> bigger than <region>?", "Is <region> larger than <region>?")
SCENE_SMALLER = ("Is <region> smaller than <region>?",)
SCENE_REGION_PAIR = ("What are <region> and <region>?", "Name <region> and <region>.")
SCENE_IS_THERE = ("Is there {}?", "Is there {} in the picture?", "Can you see {}?", "Do you see {} here?")
SCENE_ARE_THERE = ("Are there any {}?", "Are there any {} in the picture?", "Can you see any {}?")
SCENE_RELATION = ("What is {} {}?", "What can you see {} {}?", "Which thing is {} {}?")
"""The relation, and the thing that something stands in it to."""

# Follow-ups, of a pronoun.
SCENE_IT_WEARING = ("What colour is {} wearing?", "What color does {} wear?")
SCENE_IT_COLOUR = ("What colour is it?", "And what colour is it?", "What color is it?")
SCENE_IT_WHERE = ("Where is {}?", "And where is {}?")
SCENE_IT_NEAREST = ("What is nearest to {}?", "What is closest to {}?")
