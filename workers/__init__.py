"""What runs inside Ray actors: the column worker and the data worker, with all that they stand on."""
