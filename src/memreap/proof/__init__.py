"""``memreap check``: designs against properties, and how it is shown.

``matrix`` explores, ``columns`` and ``page`` show, ``bring`` reads what a user brings, ``command``
is the command line's other end.
"""
