"""The data path's contenders for `bench data`: ours, and each peer written as its own documentation writes it."""
