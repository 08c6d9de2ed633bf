"""What the command line knows of its own options: their help, near names, files that set them."""
