"""The smallest study with real models; it takes seconds."""

from experiments.closed_loop.plan import FirstModelPlan, StudyPlan

TINY_PLAN = StudyPlan(
    rounds=2,
    steps=2,
    prompts=9,  # more than one request
    responses=3,
    measured_prompts=4,
    measured_shifted_families=4,
    measured_responses=2,
    best_of=2,
    best_of_tries=1,
    curve_every=2,
    first_model=FirstModelPlan(
        pairs=140, vocabulary=300, hidden=16, layers=1, heads=2, intermediate=32, steps=6, batch_size=8
    ),
    retrain={
        "steps": 3,
        "batch_size": 4,
        "meta_batch_size": 2,
        "responses_per_prompt": 3,
        "learning_rate": 1e-3,
    },
)
