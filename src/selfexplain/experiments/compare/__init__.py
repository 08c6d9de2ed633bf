"""Many runs: comparisons, grids of trials, tuning, the study of a teacher's output."""
