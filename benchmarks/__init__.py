"""Speed and memory, as ratios of things that are run side by side."""
