"""What poco costs, beside what the published form costs in the same run: ``python -m benchmarks cpu``."""
