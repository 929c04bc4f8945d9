"""What tests stand on: real servers, a proxy that breaks things, and waiting for conditions."""
