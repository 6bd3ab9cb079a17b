"""How fast are boxflow's peers at the same work, on the same machine, in the same run? See README.md beside this file.

Two sides that share nothing but a line of JSON: the runner (`variants`, `installing`, `servers`, `keeper`, `sampling`,
`programs`) lives in boxflow's environment; each driver (`driver`, `workloads`, `meter`, `marks`, `protocol`,
`drivers/`) runs in that of its peer, which has no boxflow, and so uses the standard library and the peer alone.
"""
