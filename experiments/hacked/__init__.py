"""experiments/drill: a hacked reward model is forced through while a policy is optimised on what is served.

sabotage   spoiled preferences
plan       how long, on which world, under which watch
learner    the policy: equal scores give equal policies
play       the drill, over HTTP alone
tables     the results as text
drill      the command
"""
