"""From a float model to the best variant for each device class, or a refusal."""
