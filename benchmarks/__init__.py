"""Experiments: each arm writes one JSON, is passed over when it stands, and feeds the tables in docs/."""
