"""From texts to scores: encode, look up, schedule, forward, calibrate. No HTTP."""
