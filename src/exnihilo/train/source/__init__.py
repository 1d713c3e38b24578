"""Where a step's batch comes from: a data set, a data set with a reference's log-probabilities, or rollouts.

The loop knows `base.Source` only; which one feeds it is what the objective `needs`. See docs/objectives.md.
"""
