"""One self-contained HTML page about a run, several runs, a study, or a data set."""
