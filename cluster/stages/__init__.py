"""The kinds of stages. Each takes the run's context and its config, and leaves artifacts and a manifest."""
