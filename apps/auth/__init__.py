"""auth: who may do what; and, on demand, a dependency that fails in every way a dependency can."""
