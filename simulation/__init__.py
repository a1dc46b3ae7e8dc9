"""A closed RLHF loop in a text world with an exact gold reward.

families/      questions whose right answer is known
world          Task, Draft (the decisions behind an answer), Response
decisions      the options of a draft, and how they are parametrised
phrases, writing   a draft becomes text
gold           what a response is really worth
initial, policy, optimise   who writes, and what optimisation makes of it
prompts, preferences   splits, and labelled pairs
bag_of_words   a linear reward model, for loops without a server
measures, rounds   what is measured, and the loop
demo, report, figure   the loop against a running server
private_server   a `metarm up` of one's own
drill/         a hacked reward model forced through in the middle of the loop
closed_loop/   rounds of optimisation and retraining, and what they say of the paper's claims
cli            the commands
"""
