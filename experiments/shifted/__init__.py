"""experiments/shift: every variant of the update on real preference data whose policies shift.

data, evaluation   the files of a shift, and the pairs that a model is judged by
variants, experiment   what is compared, and the runs of one seed
states, folded   the frozen layers' outputs, computed once, and the forward from there on
measures, comparison, tables   pure: score differences → figures → intervals → text
shift      the command
"""
