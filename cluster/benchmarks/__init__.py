"""What `python -m cluster.bench` measures, and against whom."""
