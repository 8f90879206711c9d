"""The parts of the report, one file per question a reader has."""
