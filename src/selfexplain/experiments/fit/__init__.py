"""One run: its model, its teacher, its training, its snapshots, and what was pretrained."""
