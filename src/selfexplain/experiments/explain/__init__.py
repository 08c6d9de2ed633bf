"""Explanations by finished runs: drawn, and scored."""
