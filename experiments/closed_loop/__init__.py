"""The evidence: rounds of policy optimisation and retraining, and what they say of the paper's claims.

plan           what is run: rounds, pressure, the first reward model, the arms
reward_models  what a run asks of a reward model, wherever it lives
play           one run: a seed and an arm, round by round
records        what a run leaves behind, as JSON
first_model    a tiny transformer trained on simulated preferences
in_process     the trainer called here; the only file that imports it, with first_model
served         the same over HTTP, against a private `metarm up`
jobs           many runs in worker processes, taken up again where they stopped
intervals, comparisons, claims, tables   pure: records → figures with intervals → answers → text
pictures, page   the same as pictures and one HTML page
command, report_command   `metarm simulate`, `metarm report`
"""
