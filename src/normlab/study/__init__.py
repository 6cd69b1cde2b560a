"""Many runs that answer one question: which normalization, by how much, how sure.

plan       from the configuration to arms, paired by seeds
tuning     the grid of a search, halved in rungs; search runs it
job        one run, in a process of its own
local      jobs on this machine's cores; cluster: on Ray
record     study.json and study.csv
compare    all of it
"""
