"""The ground floor of Flywheel: records, rules, settings, database, command line. It imports none of the other
packages."""
