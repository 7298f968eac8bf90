"""What is to be solved: problems, suites, prompts, data sets and the synthetic family."""
