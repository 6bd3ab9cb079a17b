"""How fast is boxflow, beside what the machine could do at best? See README.md; run `python -m benchmarks`."""
