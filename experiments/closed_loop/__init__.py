"""experiments/simulate and report: rounds of optimisation and retraining, and the paper's claims answered.

plan           what is run: rounds, pressure, the first reward model, the arms
reward_models  the interface of a run to its reward models, in this process or served
play           one run: a seed and an arm, round by round
records        the record of a run, as JSON
first_model    a tiny transformer trained on simulated preferences
in_process     the trainer's parts, called here
served         the same over HTTP, against a private `metarm up`
content        the names of kept results, from everything that made them
jobs           many runs in worker processes, resumed where they stopped
intervals, comparisons, claims, tables   pure: records → figures with intervals → answers → text
pictures, page   the same as pictures and one HTML page
simulate, report   the commands
"""
