"""Members on hosts: the rows of a CSV are dealt to them, and each is a run of the frontend (mlma/cluster/)."""
