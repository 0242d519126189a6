"""The schema, the loader, and one YAML file per experiment. Imports nothing else of the project."""
