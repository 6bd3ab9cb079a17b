"""A backend of your own: a store in SQLite, with the contract that it has to pass.

pytest examples/own_backend
"""
