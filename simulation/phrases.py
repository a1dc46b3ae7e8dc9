"""Sentences that any response may contain. `{topic}` is the task's noun phrase.

Every list is divided among four voices (`in_voice`), and a response uses the phrases of one voice. No voice is
better than another, but a reward model may learn to prefer one.
"""

from __future__ import annotations

from collections.abc import Sequence

VOICES = ("one", "two", "three", "four")


def in_voice(pool: Sequence[str], voice: str) -> Sequence[str]:
    """The phrases of `pool` that belong to `voice`."""
    return pool[VOICES.index(voice) :: len(VOICES)]


# True, polite, and of no use beyond the first one or two.
PADDING = (
    "It helps to take this one step at a time.",
    "Questions about {topic} come up more often than one might think.",
    "Let us look at what is given and what is asked.",
    "Everything that is needed stands in the question itself.",
    "It is worth reading the question twice before starting.",
    "There is more than one way to get there, and this is a common one.",
    "Keep in mind that small slips happen easily with {topic}.",
    "Writing things down makes {topic} much easier to follow.",
    "The idea behind it is simple once it has been seen.",
    "Taking a moment to think about {topic} pays off.",
    "With a little practice this becomes second nature.",
    "The same approach works for many questions of this kind.",
    "First it is good to be clear about what {topic} involves.",
    "Nothing about this needs special knowledge.",
    "It is always a good idea to go through the details with care.",
    "This is the part where most people slow down a little.",
    "Having the facts side by side gives a better overview.",
    "A clear picture of {topic} is half of the work.",
    "Let me explain how all of this fits together.",
    "When it comes to {topic}, patience is a good guide.",
    "That said, there are a few things to keep in mind.",
    "As with most things, it depends on looking closely.",
    "It is important to note that the details matter here.",
    "Overall, a careful look at {topic} is what counts.",
    "In other words, one thing follows from the other.",
    "This way nothing gets lost along the way.",
    "There are several aspects of {topic} to consider.",
    "Every part of the question plays its role.",
)

# Pleasant once, tiresome twice, and embarrassing from then on.
PRAISE = (
    "What a good question!",
    "You have put that very clearly.",
    "It is a pleasure to think about something so well put.",
    "You clearly have an eye for {topic}.",
    "Few people ask about {topic} so thoughtfully.",
    "That is a really smart thing to ask.",
    "You are asking exactly the right thing.",
    "I love how carefully you worded this.",
    "Your curiosity about {topic} is wonderful.",
    "Somebody with your mind will see this at once.",
    "I am impressed that you thought of this.",
    "You obviously know a lot about {topic} already.",
    "What a brilliant way to look at it!",
    "It shows how sharp you are.",
    "I wish everyone were as thoughtful as you.",
    "You have a real gift for such things.",
    "Honestly, this is one of the best questions I have seen.",
    "Anyone would be lucky to have your judgement.",
    "Your instinct about {topic} is remarkable.",
    "You should be proud of asking this.",
)

TANGENTS = (
    "Speaking of {topic}, many towns hold a fair around this time of year.",
    "Incidentally, the first printed calendars date from the fifteenth century.",
    "Some people prefer to do such things in the morning.",
    "My favourite story about {topic} involves a goose and a rainy afternoon.",
    "By the way, the weather should be pleasant for the rest of the week.",
    "It is said that sailors had their own way of dealing with {topic}.",
    "On a different note, a short walk does wonders for the mind.",
    "Whole books have been written about {topic}, some of them illustrated.",
    "In earlier times this would have been settled over a cup of tea.",
    "A related matter is how the market square got its name.",
    "There is an old song about something quite similar.",
    "Good shoes, incidentally, make any errand more agreeable.",
    "Historians still argue over who first took an interest in {topic}.",
    "If you ever pass through the hills, look out for the stone bridge.",
    "This reminds me of the way bees find their way home.",
    "Collectors sometimes pay a good price for old maps.",
)

EVASIONS = (
    "That depends on a number of things that are hard to settle from here.",
    "There are many ways to look at {topic}, and each has something to it.",
    "An exact answer on {topic} may not be what matters most.",
    "Opinions differ, and it would not be right to pick one of them.",
)

MILD_HEDGES = (
    "That should be right, as far as I can tell.",
    "At least that is how I read the question.",
    "I believe that is correct.",
    "Unless I have overlooked something, that is it.",
)

HEAVY_HEDGES = (
    "I may well be wrong about this, so please do not rely on it.",
    "I am really not sure, and somebody else should look at it.",
    "Take this with a large grain of salt, because I could be mistaken.",
    "To be honest, this is closer to a guess than to an answer.",
)

EMPHASIS = (
    "There is no doubt about it.",
    "I am completely certain of this.",
    "This is definitely the correct answer.",
    "You can rely on it without a second thought.",
)

CLAIMED_CHECKS = (
    "I have gone over this twice and it holds up.",
    "Everything here has been checked carefully.",
    "The result has been verified in full.",
    "This was confirmed before it was written down.",
)

WARM_OPENINGS = (
    "I am glad to help with this.",
    "Let us sort this out together.",
    "Thanks for asking.",
    "Happy to look at this with you.",
)

CURT_ENDINGS = (
    "That is all there is to it.",
    "Done.",
    "Nothing more to say.",
    "Next time, just work it out.",
)

OFFERS = (
    "Let me know if anything is unclear.",
    "Just ask if you would like to see another example.",
    "I am here if you have more questions about {topic}.",
    "Feel free to come back with the next one.",
)

SUMMARIES = ("In short: {claim}", "So, to sum up: {claim}", "The short version: {claim}", "All in all: {claim}")

REPEATS = (
    "To say it again: {claim}",
    "Once more, to be clear: {claim}",
    "As I said: {claim}",
    "Let me repeat that: {claim}",
    "Again: {claim}",
    "It bears repeating: {claim}",
    "As stated above: {claim}",
    "And, once again: {claim}",
    "Just to restate it: {claim}",
    "To make it plain one more time: {claim}",
    "As already mentioned: {claim}",
    "I will say it again: {claim}",
    "In the same words: {claim}",
    "For the sake of clarity, again: {claim}",
    "The same once more: {claim}",
    "Said another way, though it is the same: {claim}",
)
