"""Experiments: arms x budgets x seeds on one data set, scored the same way; one table of arms for each task."""
