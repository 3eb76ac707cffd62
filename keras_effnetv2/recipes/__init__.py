"""How to train, as data and pure functions: recipes, stages, schedules, optimizers, averages."""
