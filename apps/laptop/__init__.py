"""laptop: the whole system on one machine with only Python. `up` runs it, `demo` tells its story and checks it."""
