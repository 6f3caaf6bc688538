"""Studies: many runs from one file, as seeds, sweeps and population based training.

A study is a file and a folder. Its members are ordinary runs in STUDY/members/; STUDY/journal.jsonl has everything that
the controller knows, so it may end in any way and be started again. docs/decisions/0021-studies.md has the reasons.
"""
