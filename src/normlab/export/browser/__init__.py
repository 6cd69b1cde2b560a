"""A page that predicts pictures in a browser, without a server.

`steps.py` turns a network into steps and weights, `page.py` writes the page. The folder `static`
has its template, its style and its program in JavaScript: `network.js` carries the steps out,
`pictures.js` converts pictures, `page.js` shows both.
"""
