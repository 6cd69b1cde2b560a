"""Many runs that answer one question: which normalization, by how much, how sure.

plan          from the configuration to arms, paired by seeds
contrasts     what is tested, and corrected for
tuning        the grid of a search, halved in rungs; search runs it
teaching      the teacher of a study's runs; starting: the network that they start from
estimate      the time of a run before it runs; announcement prints the plan with it
job           one run, in a process of its own; predictions: what it writes last
local         jobs on this machine's cores; cluster: on Ray
resources     what jobs need; display shows them while they run
record        study.json and study.csv
compare       all of it
"""
