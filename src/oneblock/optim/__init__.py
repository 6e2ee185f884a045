"""Learning-rate schedules and weight averages."""
