"""The benchmark harness: every number is an A/B ratio of one run, A under ramster, B under its peer, taken in turns.

`python -m bench --list` names the benches. The peers need root and memory cgroups; what is missing is said, never
invented.
"""
