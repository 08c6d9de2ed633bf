"""What mkdocs runs while it builds the site of docs/: hooks, and a check of what was built."""
