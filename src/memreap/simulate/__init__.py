"""Time: the model's own tasks, and the guard's decisions, on a clock.

``check`` asks what can happen; here it is asked how long it takes, how often it happens, and what
it costs. Begin with ``trial.run``: one scenario, one strategy, one seed.
"""
