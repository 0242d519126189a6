"""`python -m cluster.report`: the paper's figures and tables, drawn from runs, as one HTML page and its pictures."""
