"""Statistics, verdicts, advice, bottlenecks, and the comparison of two result files."""
