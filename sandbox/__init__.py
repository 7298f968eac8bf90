"""Running programs nobody trusts: backends, judge and candidate, verdicts."""
