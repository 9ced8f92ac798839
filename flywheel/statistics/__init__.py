"""Pure functions from counts to evidence: no database, no clock, no state. Import the file you need."""
