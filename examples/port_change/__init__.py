"""The demo: one change of a Python SDK is ported to three others by agents that work in parallel, each in a box.

workflow.py    the pipeline, as a user of boxflow writes it: start reading here
agent.py       the program that does the porting, in a box, with nothing but the standard library
repository.py  the git repository with the change
service.py     an engine with an HTTP server, as an app has one
watch.py       what a person sees meanwhile
approve.py     what a person answers, from this or another terminal
proof.py       the same pipeline, killed again and again
"""
