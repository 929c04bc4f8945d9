"""What the services have in common; knows none of them."""
