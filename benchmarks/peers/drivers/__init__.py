"""How is each peer told to do the workloads? One module a peer, written as its documentation has it."""
