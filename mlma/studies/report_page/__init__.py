"""The report of a study: curves, statistics, and the history of a population. With numpy and matplotlib."""
