"""The network and the mathematics of its training. Needs torch and numpy alone: no Ray, no files."""
