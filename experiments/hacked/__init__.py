"""The drill: a hacked reward model is forced through on a private server while a policy is optimised on what
it serves, and the watch is left to take it back.

sabotage   preferences gone wrong
plan       how long, on which world, under which watch
learner    the policy: alike wherever it is scored alike
play       the drill, over HTTP alone
report     what came of it, as text
command    metarm drill
"""
