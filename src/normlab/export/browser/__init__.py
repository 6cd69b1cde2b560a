"""A page that predicts pictures in a browser, without a server.

`steps.py` turns a network into steps and weights; the folder `page` has the page, and the program
in JavaScript that carries the steps out. A new operation is one of its `OPERATIONS`.
"""
