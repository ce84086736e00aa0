"""The explorer: tasks, the operations they yield, and every order in which these can happen.

Knows nothing of memory management. ``operation``, ``model`` and ``automaton`` say what is explored;
``search`` and ``dpor`` explore it, independently of each other; ``liveness`` and ``paths`` look at
the graph that was found; ``counterexample`` tells one way through it.
"""
