"""A small Linux guest, booted in seconds, for tests of what the machine at hand lacks.

``cache`` says where things lie, ``setup`` brings them, ``image`` packs the guest's files,
``guest`` boots and watches it; ``init`` and ``inside`` run in there. Nothing is imported here:
the guest has this package too.
"""
