"""The data path: pictures, shards, sample order, data workers and the feed. Imports no torch."""
