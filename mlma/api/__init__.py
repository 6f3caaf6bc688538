"""What `import mlma` offers: load_policy, train, read_run. See docs/guides/python_api.md.

The layer above all others but the frontend: it starts training as a user does, and uses what evaluation uses.
"""
