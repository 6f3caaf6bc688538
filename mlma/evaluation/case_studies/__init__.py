"""Pages about runs, generated from their files: `python -m mlma.evaluation.case_studies RUNS`."""
