"""Architecture search: one run or several seeds, and look-ups in the table."""
