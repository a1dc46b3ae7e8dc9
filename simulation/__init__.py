"""The text world, where the gold reward is known exactly; a policy that drifts in it; and the demo.

families/      questions whose right answer is known
world          Task, Draft (the decisions behind an answer), Response
decisions      the options of a draft, and their parameters
phrases, writing   draft → text
gold           the gold reward of a response
initial, policy, optimise   the first policy, its probabilities, and REINFORCE
prompts, preferences   splits of the prompts, and labelled pairs
measures, rounds   the figures, and the loop that they are taken in
demo, report, figure   the loop against a running server, its tables and its picture
private_server a `metarm up` of one run's own
cli            `metarm demo`
"""
