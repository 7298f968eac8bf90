"""The synthetic family: typed operations composed 1 to 5 deep, in Python and Java from one definition."""

from problems.synthetic.corpus import CorpusConfig, corpus
from problems.synthetic.family import SyntheticConfig, checked_tasks, parse_synthetic, synthetic_problems

__all__ = ["CorpusConfig", "SyntheticConfig", "checked_tasks", "corpus", "parse_synthetic", "synthetic_problems"]
