"""What the guard is told: files, command line and defaults in; Settings, origins and faults out.

Nothing here acts on a process. ``load.load`` is the way in, ``command`` what the command line
calls.
"""
