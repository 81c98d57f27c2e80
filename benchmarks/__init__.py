"""How fast Backout is, beside what a person would do by hand: `python -m benchmarks`, see docs/benchmarks.md."""
