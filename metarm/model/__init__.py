"""A checkpoint as a reward model: texts → tokens → rewards, exactly as the checkpoint's own network scores
them."""
