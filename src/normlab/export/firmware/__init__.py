"""A network as a C program for microcontrollers.

The chain of steps (`network/steps.py`) and its memory (`network/memory.py`) are the network's own.
Here the steps get their numbers: `parameters.py` takes them from the trained network, `quantize.py`
makes them integers. `reference.py` says in NumPy what the program computes, to the last bit;
`emit.py` writes it in C, and `prove.py` compiles it and compares both.
"""
