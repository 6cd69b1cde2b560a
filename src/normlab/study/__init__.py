"""Many runs that answer one question: which normalization, by how much, how sure.

plan       from the configuration to arms, paired by seeds
tuning     the same search of settings for every arm
work       one run, carried out anywhere
local      on this machine's cores
cluster    on a Ray cluster
record     study.json and study.csv
compare    all of it
"""
