"""The one package that touches Ray's private names: it watches the actor pools of a running execution and sizes them.

Written and tested against Ray 2.60. `check.missing_names` verifies every private name before a run begins; when one
is missing the run goes on with Ray Data's own behaviour and without pool figures, and Progress says so.
"""
