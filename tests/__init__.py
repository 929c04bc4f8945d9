"""The proof, cheapest first."""
